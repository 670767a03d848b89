"""Kernels of a case, as CUPTI records them: which chunks, whose they are, where they stand in the result; and what the
result says where they cannot be had. A library that tests speak for (fakes/fake_cupti.c) stands in for CUPTI, the CPU
for a GPU: each of its ops leaves one kernel."""
import csv
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import unittest
from pathlib import Path

import h5py
import numpy as np

import drive
from test_trace import KERNEL_SUMMARY as NAMES_SUMMARY, RANGE_SUMMARY

# What the kernel summary, the memory-copy summary and the API summary of an Nsight Systems export ask for.
KERNEL_SUMMARY = """
WITH summary AS (SELECT coalesce(shortName, demangledName) AS nameId, sum(end - start) AS total, count(*) AS num,
                        avg(end - start) AS avg, min(end - start) AS least, max(end - start) AS most
                 FROM CUPTI_ACTIVITY_KIND_KERNEL GROUP BY 1),
     totals AS (SELECT sum(total) AS total FROM summary)
SELECT ids.value, summary.total, num, least, most, round(summary.total * 100.0 / totals.total, 1)
FROM summary CROSS JOIN totals LEFT JOIN StringIds AS ids ON ids.id = summary.nameId ORDER BY 2 DESC"""
KERNEL_TRACE = """
SELECT k.start, k.end - k.start, k.correlationId, k.gridX, k.gridY, k.gridZ, k.blockX, k.blockY, k.blockZ,
       k.registersPerThread, k.staticSharedMemory, k.dynamicSharedMemory, k.deviceId, k.streamId, d.value, r.start
FROM CUPTI_ACTIVITY_KIND_KERNEL AS k JOIN StringIds AS d ON d.id = k.demangledName
LEFT JOIN CUPTI_ACTIVITY_KIND_RUNTIME AS r ON r.correlationId = k.correlationId ORDER BY 1"""
MEMORY_USE = """
SELECT k.label, o.label, e.bytes, e.start, p.name FROM CUDA_GPU_MEMORY_USAGE_EVENTS AS e
JOIN ENUM_CUDA_MEM_KIND AS k ON k.id = e.memKind JOIN ENUM_CUDA_DEV_MEM_EVENT_OPER AS o ON o.id = e.memoryOperationType
JOIN PROCESSES AS p ON p.globalPid = e.globalPid ORDER BY e.rowid"""
API_SUMMARY = """
SELECT ids.value, count(*), sum(end - start) FROM CUPTI_ACTIVITY_KIND_RUNTIME AS r JOIN StringIds AS ids
ON ids.id = r.nameId GROUP BY 1"""

fake = drive.build / "tests" / "libfake_cupti.so"
EAGER, GRAPH = "needle-1k_c256_eager_tp2_bf16", "needle-1k_c256_graph_tp2_bf16"


class Cupti(drive.BenchTest):
    def record(self, *args, tells="works", code=0, program=drive.faulty, env=None, words=(), **values):
        values.setdefault("trace__cupti", "all")
        result = self.bench("run", self.write_config(**values), "-o", self.file, *args, program=program,
                            BENCH_TEST_CUPTI=str(fake), FAKE_CUPTI=tells, **(env or {}))
        return self.expect(result, code, *words)

    def trace(self, case_id=EAGER):
        """(attributes, {table: rows}) of a case's trace, or None."""
        with h5py.File(self.file, "r") as f:
            group = f["case"][case_id].get("trace")
            if group is None:
                return None
            tables = {name: table[:] for name, table in group.items() if isinstance(table, h5py.Dataset)}
            for name in ("ops", "chunks"):
                if name in group:
                    tables[name] = {column: values[:] for column, values in group[name].items()}
            return {k: drive.text(v) if isinstance(v, bytes) else v for k, v in group.attrs.items()}, tables

    def test_every_op_of_every_chunk_leaves_its_kernel_in_either_mode(self):
        self.record(words=("recording kernels of 2 cases",))
        shapes = []
        for case_id in (EAGER, GRAPH):
            facts, tables = self.trace(case_id)
            self.assertEqual((facts["note"], facts["dropped_records"], facts["cupti_version"]), ("", 0, 130001))
            self.assertEqual(list(tables["chunks"]["start_token"]), [0, 256, 512, 768])
            self.assertEqual(set(tables["chunks"]["replayed"]), {0} if case_id == EAGER else {1})
            kernels, names = tables["CUPTI_ACTIVITY_KIND_KERNEL"], tables["StringIds"]["value"]
            self.assertTrue((kernels["op_id"] >= 0).all())
            self.assertEqual(set(kernels["rank"]), {-1, 0, 1})
            self.assertEqual(kernels["registersPerThread"][0], 168)
            self.assertEqual(drive.text(names[kernels["shortName"][-1]]), "swiglu_kernel")
            self.assertIn(b"embed", set(names))
            # kernels lie in their chunks, by one clock
            for i, begin in enumerate(tables["chunks"]["begin_ns"]):
                of_chunk = kernels[kernels["chunk"] == i]
                self.assertGreaterEqual(of_chunk["start"].min(), begin)
                self.assertLessEqual(of_chunk["end"].max(), begin + tables["chunks"]["latency_ns"][i])
            self.assertEqual(facts["session_begin_ns"], 0)
            # each was started by a call with its number
            calls = tables["CUPTI_ACTIVITY_KIND_RUNTIME"]
            self.assertEqual(set(calls["correlationId"]), set(kernels["correlationId"]))
            ops = [(drive.text(op), drive.text(role)) for op, role in zip(tables["ops"]["op"], tables["ops"]["role"])]
            shapes.append([(ops[k["op_id"]], k["rank"], k["layer"], k["chunk"]) for k in kernels])
        self.assertEqual(shapes[0], shapes[1])
        with h5py.File(self.file, "r") as f:
            trace = f["case"][EAGER]["trace"]
            units = {k[:-len(".units")]: drive.text(v) for k, v in trace["CUPTI_ACTIVITY_KIND_KERNEL"].attrs.items()
                     if k.endswith(".units")}
            self.assertEqual(units, {"start": "ns", "end": "ns", "staticSharedMemory": "bytes",
                                     "dynamicSharedMemory": "bytes", "localMemoryPerThread": "bytes",
                                     "sharedMemoryExecuted": "bytes"})
            self.assertIn("CLOCK_MONOTONIC", drive.text(trace["CUPTI_ACTIVITY_KIND_KERNEL"].attrs["start.description"]))
            # the session began when the clock did, in UTC by the pair of clocks that the run has read
            run, (start,) = f["run"].attrs, trace["TARGET_INFO_SESSION_START_TIME"][:]
            self.assertAlmostEqual(int(start["utcEpochNs"]), int(run["realtime_ns"]) - int(run["monotonic_ns"]), delta=1e9)
        self.assertIn((("attention", ""), 1, 0, 2), shapes[0])

    def test_the_measured_part_of_a_case_is_as_without(self):
        self.record()
        with h5py.File(self.file, "r") as f:
            self.assertEqual(len(f["case"][EAGER]["chunks"]["chunk"]), 4)
            self.assertIn("spans", f["case"][EAGER])
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})
        self.record("--force", trace__cupti="none")
        self.assertIsNone(self.trace())

    def test_one_chunk_alone_is_recorded_however_deep(self):
        for wanted, chunks in (("2", [2]), ("last", [3]), ("99", [3]), ("spread", [0, 1, 2, 3])):
            self.record("--force", trace__cupti=wanted, engine__enforce_eager="false")
            self.assertEqual(list(self.trace(GRAPH)[1]["chunks"]["chunk"]), chunks, wanted)

    def test_several_devices_tell_from_threads_of_their_own(self):
        self.record(engine__devices="2", engine__enforce_eager="true")
        kernels = self.trace()[1]["CUPTI_ACTIVITY_KIND_KERNEL"]
        self.assertEqual(set(kernels["deviceOfRun"]), {0, 1})
        self.assertTrue((kernels["op_id"] >= 0).all())

    def test_what_is_lost_or_nobodys_is_counted_and_named(self):
        self.record(tells="works,stray,drop", engine__enforce_eager="true")
        facts, tables = self.trace()
        kernels = tables["CUPTI_ACTIVITY_KIND_KERNEL"]
        strays = kernels[kernels["op_id"] < 0]
        self.assertGreater(len(strays), 0)
        self.assertEqual({drive.text(tables["StringIds"]["value"][s["mangledName"]]) for s in strays}, {"_Z5strayv"})

    # ---- views

    def trace_of(self, *args, case_id=EAGER, code=0):
        return self.expect(self.bench("trace", self.file, "--case", case_id, *args), code)

    def test_a_person_sees_what_kernels_explain_and_whose_they_are(self):
        self.record(tells="works,stray,drop", run__warmup=1)
        kernels = self.trace()[1]["CUPTI_ACTIVITY_KIND_KERNEL"]
        shown = self.trace_of().out
        self.assertIn("time by depth", shown)  # spans stay, kernels come after them
        alone = self.trace_of("--kernels").out
        self.assertTrue(shown.endswith(alone.split("\n", 1)[1]))
        for words in ("kernels that CUPTI 130001 recorded (4 chunks", f"found    {len(kernels)} kernels\n", "stray (",
                      "what kernels explain of each chunk's latency", "kernel time by op", "attention_kernel", "132x2",
                      "DROPPED  12 records", "(between kernels)", "latency of the chunks"):
            self.assertIn(words, alone)
        self.assertLessEqual(max(map(len, alone.splitlines())), 100, alone)
        self.assertIn("kernel by kernel, as CUPTI recorded them: bench trace --kernels",
                      self.bench("show", self.file, "--case", EAGER).out)
        one = self.trace_of("--kernels", "--chunk", 3).out
        self.assertIn("recorded (1 chunk once more", one)
        self.expect(self.bench("trace", self.file, "--case", EAGER, "--kernels", "--chunk", 9), 2, "not recorded")

    def test_a_line_per_kernel(self):
        self.record(run__warmup=1)
        kernels = self.trace()[1]["CUPTI_ACTIVITY_KIND_KERNEL"]
        rows = list(csv.DictReader(io.StringIO(self.trace_of("--kernels", "--csv").out)))
        self.assertEqual(len(rows), len(kernels))
        self.assertEqual(sorted(int(r["duration_ns"]) for r in rows), sorted((kernels["end"] - kernels["start"]).tolist()))
        self.assertEqual({r["op"] for r in rows} >= {"attention", "linear", "embed"}, True)
        spans = self.trace_of("--csv")  # of kernels only who asks for them
        self.assertIn("--csv --kernels", spans.err)
        self.assertTrue(spans.out.startswith("repeat,chunk,device,rank,layer,op,role,kernel,"))

    def test_recipes_for_exports_read_the_kernels(self):
        self.record(run__warmup=1)
        path = self.folder / "trace.sqlite"
        result = self.bench("trace", self.file, "--case", EAGER, "--sqlite", path)
        if result.code == 5:
            self.skipTest("built without SQLite")
        self.expect(result, 0)
        facts, tables = self.trace()
        kernels, names = tables["CUPTI_ACTIVITY_KIND_KERNEL"], tables["StringIds"]["value"]
        db = sqlite3.connect(path)
        self.addCleanup(db.close)
        expected = {}
        for k in kernels:
            expected.setdefault(drive.text(names[k["shortName"]]), []).append(int(k["end"] - k["start"]))
        found = {row[0]: row[1:5] for row in db.execute(KERNEL_SUMMARY)}
        self.assertEqual(found, {n: (sum(ns), len(ns), min(ns), max(ns)) for n, ns in expected.items()})
        rows = list(db.execute(KERNEL_TRACE))
        self.assertEqual(len(rows), len(kernels))
        for row in rows:
            self.assertEqual(row[3:14], (132, 2, 1, 384, 1, 1, 168, 1024, 180224, 0, 13))
            self.assertEqual(row[0], row[15])  # each with the call that started it
        self.assertIn("void bench::attention_kernel<128, true>(float const*, int)", {row[14] for row in rows})
        self.assertEqual(list(db.execute(API_SUMMARY))[0][:2], ("cudaLaunchKernel_v7000", len(kernels)))
        self.assertEqual(db.execute("SELECT count(DISTINCT op) FROM CUPTI_ACTIVITY_KIND_KERNEL").fetchone()[0],
                         len({(drive.text(o), drive.text(r)) for o, r in zip(tables["ops"]["op"], tables["ops"]["role"])}))
        about = dict(db.execute("SELECT name, value FROM META_DATA_EXPORT"))
        self.assertIn("CUPTI", about["KERNELS_FROM"])
        self.assertEqual({launch for launch, in db.execute("SELECT launchType FROM CUPTI_ACTIVITY_KIND_KERNEL")}, {1})
        # what the worker allocated before its chunks
        use = list(db.execute(MEMORY_USE))
        self.assertEqual([row[:3] for row in use], [("Device", "Allocation", 64 << 20), ("Pinned", "Allocation", 1 << 20),
                                                    ("Pinned", "Deallocation", 1 << 20)])
        self.assertLess(max(row[3] for row in use), min(row[0] for row in rows))
        self.assertEqual({row[4] for row in use}, {f"bench run worker {EAGER}"})
        memory = tables["CUDA_GPU_MEMORY_USAGE_EVENTS"]
        self.assertEqual([list(memory[c]) for c in ("chunk", "memKind", "memoryOperationType")],
                         [[-1, -1, -1], [2, 1, 1], [0, 0, 1]])
        self.assertEqual(len(tables["CUDA_GRAPH_NODE_EVENTS"]), 0)  # an eager case has no graph
        # the tables of the result itself have an export's fields, too
        (process,) = {int(t) >> 24 << 24 for t in tables["CUPTI_ACTIVITY_KIND_RUNTIME"]["globalTid"]}
        for kind in ("KERNEL", "MEMCPY", "MEMSET"):
            self.assertLessEqual(set(tables["CUPTI_ACTIVITY_KIND_" + kind]["globalPid"].tolist()), {process}, kind)
        self.assertEqual(facts["overhead"], 0)  # the fake tells of none
        self.assertIn("domainId", tables["NVTX_EVENTS"].dtype.names)
        self.assertIn("busLocation", tables["TARGET_INFO_GPU"].dtype.names)

    def test_a_summary_of_ranges_does_not_add_spans_and_what_the_host_marked(self):
        self.record(run__warmup=1)
        facts, tables = self.trace()
        with h5py.File(self.file, "r+") as f:  # as if CUPTI had seen a range of an op, and one of a library: the fake sees none
            group = f["case"][EAGER]["trace"]
            mark = np.zeros(2, group["NVTX_EVENTS"].dtype)
            thread = tables["CUPTI_ACTIVITY_KIND_RUNTIME"]["globalTid"][0]
            text = [drive.text(v) for v in tables["StringIds"]["value"]]
            strings = np.concatenate([group["StringIds"][:]] * 2)[:len(text) + 3]
            for i, name in enumerate(("attention", "bench", "NCCL")):
                strings["id"][len(text) + i], strings["value"][len(text) + i] = len(text) + i, name
            for name, value in (("start", 5), ("end", 12), ("eventType", 59), ("textId", len(text)), ("globalTid", thread),
                                ("domainNameId", len(text) + 1)):
                mark[name] = value
            mark["domainNameId"][1] += 1
            mark["end"][1] = 25
            for name, rows in (("NVTX_EVENTS", mark), ("StringIds", strings)):
                attributes = dict(group[name].attrs)
                del group[name]
                group.create_dataset(name, data=rows)
                group[name].attrs.update(attributes)
            spans = f["case"][EAGER]["spans"]
            ops = [drive.text(op) for op in spans["ops"]["op"]]
            attention = sum(ops[i] == "attention" for i in spans["op_id"][:])
        path = self.folder / "trace.sqlite"
        result = self.bench("trace", self.file, "--case", EAGER, "--sqlite", path)
        if result.code == 5 and "built without SQLite" in result.err:
            self.skipTest("built without SQLite")
        self.expect(result, 0)
        db = sqlite3.connect(path)
        self.addCleanup(db.close)
        found = {row[0]: row[1:3] for row in db.execute(RANGE_SUMMARY)}
        self.assertEqual(found["bench:attention"], (7, 1))
        self.assertEqual(found["NCCL:attention"], (20, 1))
        self.assertEqual(found["bench spans:attention"][1], attention)

    def test_streams_are_tracks_of_their_own(self):
        self.record(run__spans="none")
        path = self.folder / "trace.json"
        self.trace_of("--perfetto", path)  # without spans, too
        events = json.loads(path.read_text())["traceEvents"]
        kernels = [e for e in events if e.get("cat") == "kernel"]
        self.assertEqual(len(kernels), len(self.trace()[1]["CUPTI_ACTIVITY_KIND_KERNEL"]))
        threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
        self.assertEqual({threads[e["pid"], e["tid"]] for e in kernels}, {"stream 13"})
        chunks = [e for e in events if e.get("cat") == "chunk"]
        self.assertEqual([e["name"] for e in chunks], [f"chunk {i + 1}" for i in range(4)])
        self.assertEqual(min(e["ts"] for e in chunks), 0)
        for e in kernels:
            chunk = chunks[e["args"]["chunk"]]
            self.assertTrue(chunk["ts"] <= e["ts"] and e["ts"] + e["dur"] <= chunk["ts"] + chunk["dur"] + 0.001, e)
        self.assertIn("kernels that CUPTI", self.trace_of().out)

    def test_a_file_without_kernels_says_how_to_get_them(self):
        self.record(trace__cupti="none", run__warmup=1)
        self.expect(self.bench("trace", self.file, "--case", EAGER, "--kernels"), 4, "trace.cupti=last")
        self.assertNotIn("CUPTI", self.trace_of().out)
        self.expect(self.bench("trace", self.file, "--case", EAGER, "--kernels", "--memory"), 2, "--memory excludes")

    # ---- where it cannot be had

    def no_kernels(self, why, case_id=EAGER):
        facts, tables = self.trace(case_id)
        self.assertIn(why, facts["note"])
        self.assertEqual(tables, {})
        self.assertEqual(self.cases()[case_id][0], "ok")

    def test_cupti_that_another_tool_has_is_left_to_it(self):
        self.record(tells="works,taken")
        self.no_kernels("another tool has taken CUPTI in this process")
        self.record("--force", env={"NSYS_PROFILING_SESSION_ID": "7"})
        self.no_kernels("Nsight Systems profiles this process: CUPTI is left to it", GRAPH)

    def test_a_library_that_is_not_there_is_named(self):
        result = self.bench("run", self.write_config(trace__cupti="last"), "-o", self.file, program=drive.faulty,
                            BENCH_TEST_CUPTI="libno_such_cupti.so")
        self.expect(result, 0)
        self.no_kernels("no CUPTI: libno_such_cupti.so")

    def test_the_cpu_has_none(self):
        self.record(program=drive.bench, run__warmup=1)
        self.no_kernels("CUPTI records GPUs, this ran on the CPU")
        self.assertIn("no kernels: CUPTI records GPUs", self.trace_of().out)
        shown = self.expect(self.bench("show", self.file, "--case", EAGER), 0).out
        self.assertRegex(" ".join(shown.split()), "no kernels CUPTI records GPUs")
        self.expect(self.bench("trace", self.file, "--case", EAGER, "--kernels"), 4, "has no kernels: CUPTI records GPUs")

    def test_a_worker_that_dies_while_it_records_costs_the_records_alone(self):
        """The chunk that kills is only reached by the traced one: measured passes are over."""
        self.record(trace__cupti="3", env={"BENCH_TEST_FAULT": "abort_traced:3", "BENCH_TEST_CASE": EAGER})
        self.no_kernels("SIGABRT")
        self.assertEqual(self.trace(GRAPH)[0]["note"], "")
        self.assertEqual(self.cases()[EAGER][0], "ok")

    def test_what_a_killed_run_has_not_recorded_comes_with_resume(self):
        self.record(engine__enforce_eager="true", trace__cupti="none")
        self.assertIsNone(self.trace())
        process = self.start("run", self.write_config(engine__enforce_eager="true", trace__cupti="all"), "-o", self.file,
                             "--force", program=drive.faulty, BENCH_TEST_CUPTI=str(fake), FAKE_CUPTI="works",
                             BENCH_TEST_FAULT="slow_traced:2")
        self.wait_for_line(process, "recording kernels")
        os.kill(process.pid, 9)
        self.finish(process)
        self.record("--resume", engine__enforce_eager="true", words=("recording kernels of 1 case",))
        self.assertEqual(len(self.trace()[1]["chunks"]["chunk"]), 4)

    def test_what_an_interrupted_run_has_not_recorded_is_told_of(self):
        process = self.start("run", self.write_config(engine__enforce_eager="true", trace__cupti="all"), "-o", self.file,
                             program=drive.faulty, BENCH_TEST_CUPTI=str(fake), FAKE_CUPTI="works",
                             BENCH_TEST_FAULT="slow_traced:2")
        self.wait_for_line(process, "recording kernels")
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130, "all cases ran, but kernels of 1 of 1 are left to be recorded", "--resume")
        self.expect(self.bench("trace", self.file, "--case", EAGER, "--kernels"), 4, "none were recorded", "--resume")
        self.record("--resume", engine__enforce_eager="true", words=("recording kernels of 1 case",))
        self.assertEqual(len(self.trace()[1]["chunks"]["chunk"]), 4)

    def test_an_interrupt_in_the_last_recorded_chunk_leaves_nothing(self):
        late = {"BENCH_TEST_FAULT": "interrupt_traced:3"}
        result = self.record(engine__enforce_eager="true", env=late, words=("ok: 1 of 1 cases ran",))
        self.assertNotIn("left", result.err)
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())
        self.assertEqual(len(self.trace()[1]["chunks"]["chunk"]), 4)

    def test_kernels_that_an_interrupt_leaves_are_counted(self):
        late = {"BENCH_TEST_FAULT": "interrupt_traced:3", "BENCH_TEST_CASE": EAGER}
        self.record(env=late, code=130, words=("all cases ran, but kernels of 1 of 2 are left to be recorded", "--resume"))
        self.assertFalse(self.is_complete())
        self.assertEqual(len(self.trace()[1]["chunks"]["chunk"]), 4)
        self.assertIsNone(self.trace(GRAPH))
        self.record("--resume", words=("recording kernels of 1 case",))
        self.assertEqual(len(self.trace(GRAPH)[1]["chunks"]["chunk"]), 4)
        self.assertTrue(self.is_complete())

    def test_a_worker_that_is_just_being_started_heeds_an_interrupt(self):
        self.record(env={"BENCH_TEST_EARLY": "trace"}, code=130,
                    words=("all cases ran, but kernels of 2 of 2 are left to be recorded", "--resume"))
        self.assertEqual((self.trace(EAGER), self.trace(GRAPH)), (None, None))


class OfAnH200(drive.BenchTest):
    """data/h200_kernels.h5: a replayed chunk of 32,768 tokens at depth 196,608 of the 7B shape, four ranks on one H200."""
    path = drive.source / "tests" / "data" / "h200_kernels.h5"

    def lines(self):
        result = self.expect(self.bench("trace", self.path, "--kernels", "--csv"), 0)
        return list(csv.DictReader(io.StringIO(result.out)))

    def test_every_kernel_of_a_replayed_step_has_its_op_layer_and_rank(self):
        kernels = self.lines()
        self.assertEqual(len(kernels), 2845)
        self.assertTrue(all(k["op"] for k in kernels))
        attention = [k for k in kernels if k["op"] == "attention"]
        # four ranks of 27 layers; of the last one only the prompt's end needs it
        self.assertEqual({(int(k["layer"]), int(k["rank"])) for k in attention},
                         {(layer, rank) for layer in range(27) for rank in range(4)})
        self.assertEqual({k["variant"] for k in attention}, {"sm90"})
        self.assertEqual(len({k["correlation"] for k in kernels}), 1)  # one launch
        self.assertEqual(len({k["graph_node"] for k in kernels}), len(kernels))
        self.assertTrue(all(k["name"].startswith("nvjet_sm90") for k in kernels if k["op"] == "linear"))

    def test_kernels_and_gaps_add_up_to_the_latency(self):
        shown = self.expect(self.bench("trace", self.path), 0, "2,845 kernels, each with its op").out
        with h5py.File(self.path, "r") as f:
            (latency,) = next(iter(f["case"].values()))["trace"]["chunks"]["latency_ns"]
        busy = sum(int(k["duration_ns"]) for k in self.lines())
        self.assertGreater(busy, 0.998 * latency)
        self.assertLess(busy, latency)
        self.assertRegex(shown, r"graph +2,845 +4,631 +4,625 .* 99\.9\n")

    def sqlite(self, *args, path=None):
        """The file as a database, with what the program said beside it."""
        out = self.folder / "trace.sqlite"
        result = self.bench("trace", path or self.path, "--sqlite", out, *args)
        if result.code == 5 and "built without SQLite" in result.err:
            self.skipTest("built without SQLite")
        self.expect(result, 0)
        db = sqlite3.connect(out)
        self.addCleanup(db.close)
        return db, result

    def test_summaries_of_an_export_find_kernels_and_ranges_with_their_process_and_thread(self):
        db, _ = self.sqlite()
        names = list(db.execute(NAMES_SUMMARY))
        self.assertEqual(sum(row[2] for row in names), 2845)
        self.assertAlmostEqual(sum(row[0] for row in names), 100, delta=0.5)
        with h5py.File(self.path, "r") as f:
            trace = next(iter(f["case"].values()))["trace"]
            (mark,), calls = trace["NVTX_EVENTS"][:], trace["CUPTI_ACTIVITY_KIND_RUNTIME"][:]
            threads = {int(t) for t in (*calls["globalTid"], mark["globalTid"], *trace["PROFILER_OVERHEAD"]["globalTid"])}
        ns = int(mark["end"] - mark["start"])
        self.assertEqual(list(db.execute(RANGE_SUMMARY)), [("bench:chunk", ns, 1, ns, ns)])
        process = int(mark["globalTid"]) >> 24
        self.assertEqual(list(db.execute("SELECT globalPid, pid FROM PROCESSES")), [(process << 24, process)])
        self.assertEqual(set(db.execute("SELECT DISTINCT globalPid FROM CUPTI_ACTIVITY_KIND_KERNEL")),
                         {(process << 24,)})
        named = dict(db.execute("SELECT globalTid, value FROM ThreadNames JOIN StringIds ON id = nameId"))
        self.assertEqual(set(named), threads)
        self.assertTrue(all(named.values()))

    @unittest.skipUnless(shutil.which("gnuplot"), "gnuplot is not installed")
    def test_kernels_without_spans_are_drawn_by_op(self):
        result = self.expect(self.bench("plot", self.path, "--trace", "--keep-data", "-o", self.folder / "out"), 0)
        self.assertEqual([Path(line).name.split("-")[-1] for line in result.out.split()], ["time_by_op.png"])
        for picture in ("roofline", "memory_in_use", "memory_of_layer"):
            self.assertIn(f"{picture} is left out: ", result.err)
        (data,) = (self.folder / "out").glob("*time_by_op-data")
        settings = (data / "settings.gp").read_text()
        series = dict(re.findall(r"SERIES_(\d) = '(.*)'", settings))
        self.assertIn("kernels that CUPTI recorded in 1 chunk", settings)
        rows = [list(map(float, line.split())) for line in (data / "time_by_op.dat").read_text().splitlines()]
        with h5py.File(self.path, "r") as f:
            chunks = next(iter(f["case"].values()))["trace"]["chunks"]
            middle = float(chunks["start_token"][0] + chunks["n_tokens"][0] / 2)
            latency = int(chunks["latency_ns"][0]) / 1e9
        spent, lines = {}, self.lines()
        for k in lines:
            name = f"{k['op']} {k['role']}".strip()
            spent[name] = spent.get(name, 0) + int(k["duration_ns"]) / 1e9
        for at, _, low, high, whole, number in rows:
            self.assertEqual((at, whole), (middle, latency))
            if series[str(int(number))] in spent:
                self.assertAlmostEqual(high - low, spent.pop(series[str(int(number))]), places=9)
        self.assertAlmostEqual(rows[-1][3], latency, places=4)  # kernels of a step hardly run at once
        self.assertRegex(series["7"], r"^no kernel: 0\.\d+ %")
        others = next(high - low for *_, low, high, _, number in rows if number == 6)
        self.assertAlmostEqual(others, sum(spent.values()), places=9)

    def test_columns_of_kernels_that_have_no_room_are_left_out_and_named(self):
        for width in (80, 100, 200):
            for more in ((), ("--verbose",)):
                shown = self.expect(self.bench("trace", self.path, "--kernels", *more, COLUMNS=str(width)), 0).out
                self.assertLessEqual(max(map(len, shown.splitlines())), width)
                self.assertEqual("no room for: mean (us)" in shown, width < 200, shown)

    def test_lines_are_spans_unless_kernels_are_asked_for(self):
        out = self.folder / "not_written.json"
        result = self.expect(self.bench("trace", self.path, "--csv", "--perfetto", out), 4, "has no spans",
                             "--csv --kernels")
        self.assertEqual(result.out, "")
        self.assertFalse(out.exists())

    def test_a_chunk_that_was_not_recorded_is_told_with_those_that_were(self):
        for more in ((), ("--kernels",), ("--perfetto", self.folder / "none.json")):
            self.expect(self.bench("trace", self.path, "--chunk", 6, *more), 2, "chunk 6 ", "not recorded; recorded: 7;")
            self.expect(self.bench("trace", self.path, "--chunk", "last", *more), 2, "chunk 8 ", "recorded: 7;")

    def test_every_view_of_kernels_tells_of_dropped_records(self):
        path = self.folder / "dropped.h5"
        shutil.copy(self.path, path)
        with h5py.File(path, "r+") as f:
            (case_id,) = f["case"]
            f["case"][case_id]["trace"].attrs.modify("dropped_records", np.int64(7))
        self.assertIn("DROPPED  7 records", self.expect(self.bench("trace", path), 0).out)
        self.assertIn("7 records of CUPTI", self.expect(self.bench("show", path, "--case", case_id), 0).out)
        self.assertIn("7 records of CUPTI", self.expect(self.bench("trace", path, "--kernels", "--csv"), 0).err)
        out = self.folder / "dropped.json"
        self.assertIn("7 records of CUPTI", self.expect(self.bench("trace", path, "--perfetto", out), 0).err)
        facts = json.loads(out.read_text())["otherData"]
        self.assertEqual((facts["dropped_spans"], facts["dropped_records"]), ("0", "7"))
        db, said = self.sqlite(path=path)
        facts = dict(db.execute("SELECT name, value FROM META_DATA_EXPORT"))
        self.assertEqual((facts["DROPPED_SPANS"], facts["DROPPED_RECORDS"]), ("0", "7"))
        self.assertIn("7 records of CUPTI", said.err)

    def test_what_lies_in_a_track_lies_within_one_another(self):
        path = self.folder / "trace.json"
        self.expect(self.bench("trace", self.path, "--perfetto", path), 0)
        slices = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
        self.assertEqual(sum(e["cat"] == "kernel" for e in slices), 2845)
        for thread in {(e["pid"], e["tid"]) for e in slices}:
            last = 0
            for e in sorted((e for e in slices if (e["pid"], e["tid"]) == thread), key=lambda e: e["ts"]):
                self.assertGreaterEqual(round(e["ts"] * 1000), last)
                last = round(e["ts"] * 1000) + round(e["dur"] * 1000)


unittest.main()

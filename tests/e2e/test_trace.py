"""bench trace: what it says about a case is what the spans of the file say, computed here by h5py and numpy alone; and
the files that it writes are what their readers expect."""
import csv
import io
import json
import os
import re
import shutil
import sqlite3
import tempfile
import unittest
from pathlib import Path

import drive
import h5py
import numpy as np

# What the kernel summary and the range summary of an Nsight Systems export ask for: executions by name, longest first.
KERNEL_SUMMARY = """
WITH kernels AS (SELECT demangledName AS nameId, sum(end - start) AS total, count(*) AS num, min(end - start) AS least,
                        max(end - start) AS most FROM CUPTI_ACTIVITY_KIND_KERNEL GROUP BY 1),
     totals AS (SELECT sum(total) AS total FROM kernels)
SELECT round(kernels.total * 100.0 / totals.total, 1), kernels.total, num, least, most, ids.value
FROM kernels CROSS JOIN totals INNER JOIN StringIds AS ids ON ids.id = kernels.nameId ORDER BY 2 DESC"""
RANGE_SUMMARY = """
WITH domains AS (SELECT domainId AS id, globalTid, text AS name FROM NVTX_EVENTS WHERE eventType = 75),
     ranges AS (SELECT ne.end - ne.start AS duration, d.name || ':' || coalesce(sid.value, ne.text) AS tag
                FROM NVTX_EVENTS AS ne
                LEFT OUTER JOIN domains AS d ON ne.domainId = d.id
                     AND (ne.globalTid & 0x0000FFFFFF000000) = (d.globalTid & 0x0000FFFFFF000000)
                LEFT OUTER JOIN StringIds AS sid ON ne.textId = sid.id
                WHERE ne.eventType IN (59, 70))
SELECT tag, sum(duration), count(*), min(duration), max(duration) FROM ranges GROUP BY 1 ORDER BY 2 DESC"""


MAX_RANKS = 8


def label(op, role):
    return f"{op} {role}" if role else op


class Spans:
    """A case's spans and traced chunks, straight from the file."""

    def __init__(self, path, case):
        with h5py.File(path, "r") as f:
            group = f["case"][case]["spans"]
            for name in ("device", "rank", "repeat", "chunk", "layer", "op_id", "begin_ns", "end_ns", "flops", "bytes"):
                setattr(self, name, group[name][:].astype(np.int64))
            ops = group["ops"]
            self.ops = [tuple(map(drive.text, row)) for row in zip(ops["op"], ops["role"], ops["variant"])]
            self.chunks = {name: group["chunks"][name][:] for name in group["chunks"]}
            self.roof = f["case"][case].attrs["measured_roof_flops"]
            self.copy = f["case"][case].attrs["measured_copy_bytes_per_s"]
        self.ns = self.end_ns - self.begin_ns
        self.devices = sorted(set(self.device))
        self.latency = len(self.devices) * int(self.chunks["latency_ns"].sum())  # of all devices together
        self.names = [label(op, role) for op, role, _ in self.ops]

    def of_op(self, key):
        return np.isin(self.op_id, [i for i, op in enumerate(self.ops) if op == key])

    def named(self, *names):
        return np.isin(self.op_id, [i for i, op in enumerate(self.ops) if op[0] in names])

    def parts(self):
        """Number of each traced chunk, device, and what the device did in it in order of time."""
        for i, chunk in enumerate(self.chunks["chunk"]):
            for device in self.devices:
                mine = np.flatnonzero((self.chunk == chunk) & (self.device == device))
                yield i, device, mine[np.argsort(self.begin_ns[mine], kind="stable")]


class Recorded(drive.BenchTest):
    values = {}
    overlaps = False

    @classmethod
    def setUpClass(cls):
        """Every chunk in a pass of its own; TP 2, eager and graph."""
        cls.kept = Path(tempfile.mkdtemp(prefix="bench-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.kept, ignore_errors=True)
        cls.path = cls.kept / "small.h5"
        runner = drive.BenchTest()
        runner.folder = cls.kept
        config = runner.write_config(run__spans="all", **cls.values)
        result = runner.bench("run", config, "-o", cls.path, "--quiet")
        if result.code != 0:
            raise AssertionError(f"the run failed: {result!r}")
        cls.case = next(case for case in runner.cases(cls.path) if "eager" in case)
        cls.spans = Spans(cls.path, cls.case)

    def trace(self, *args, code=0, path=None, width=200):
        """Of a screen on which every column has room."""
        return self.expect(self.bench("trace", path or self.path, "--case", self.case, *args, COLUMNS=str(width)), code)

    def assert_fits(self, *args):
        """On narrow screens columns are left out and named, and lines that are text go on below."""
        self.assertNotIn("no room for", self.trace(*args).out)
        for width in (80, 100):
            lines = self.trace(*args, width=width).out.splitlines()
            self.assertLessEqual(max(map(len, lines)), width, max(lines, key=len))
        self.assertIn("no room for: ", self.trace(*args, width=80).out)

    def table(self, heading, *args):
        """The rows below a heading, as cells."""
        lines = self.trace("--verbose", *args).out.split(heading)[1].split("\n\n")[0].splitlines()[1:]
        return [re.split(r"  +", line.strip()) for line in lines]

    def aside(self):
        """Spans that may have run beside others."""
        return self.spans.named("exchange", "all_reduce") & self.overlaps

    def near(self, shown, value):
        """A number of four significant digits, of three below 1."""
        if value == 0:
            self.assertIn(shown, ("-", "0"))
        else:
            error = abs(float(shown.replace(",", "")) / value - 1)
            self.assertLessEqual(error, 6e-4 if value >= 1 else 6e-3, (shown, value))

    def near_percent(self, shown, value):
        """With one decimal."""
        self.assertLessEqual(abs(float(shown.replace("-", "0")) - value), 0.0501, (shown, value))

    def copy(self, change):
        path = self.folder / "copy.h5"
        shutil.copy(self.path, path)
        with h5py.File(path, "r+") as f:
            change(f["case"][self.case]["spans"])
        return path

    def cut_device(self, row, at):
        """The device, which has a column where there are several."""
        return int(row.pop(at)) if len(self.spans.devices) > 1 else 0


class Views:
    """What a trace is, whether there are several devices or one."""

    # ---- the summary

    def test_every_op_has_the_time_calls_and_rates_of_its_spans(self):
        s, rows = self.spans, {}
        for row in self.table("time by op"):
            if len(row) == 8 and row[2].replace(",", "").isdigit():
                rows[row[0], row[1]] = row
        self.assertEqual(set(rows), {(label(op, role), kernel) for op, role, kernel in s.ops})
        for op in s.ops:
            row, mine = rows[label(*op[:2]), op[2]], s.of_op(op)
            ns, flops, moved = s.ns[mine].sum(), s.flops[mine].sum(), s.bytes[mine].sum()
            self.assertEqual(int(row[2].replace(",", "")), mine.sum())
            self.near(row[3], ns / 1e6)
            self.near_percent(row[4], 100 * ns / s.latency)
            self.near(row[5], flops / ns)
            self.near(row[6], moved / ns)
            self.near_percent(row[7], 1e11 * max(flops / s.roof, moved / s.copy) / ns)
        order = [float(row[3].replace(",", "")) for row in rows.values()]
        self.assertEqual(order, sorted(order, reverse=True))

    def test_ops_and_what_no_op_accounts_for_add_up_to_the_latency(self):
        s, rest = self.spans, {}
        for row in self.table("time by op"):
            if len(row) == 3 and row[0].startswith(("(", "latency")):
                rest[row[0]] = row[1]
        expected = {"(before the first op)": 0, "(between ops)": 0, "(after the last op)": 0}
        for i, _, mine in s.parts():
            begin, latency = s.chunks["begin_ns"][i], s.chunks["latency_ns"][i]
            expected["(before the first op)"] += s.begin_ns[mine[0]] - begin
            expected["(between ops)"] += (s.begin_ns[mine[1:]] - s.end_ns[mine[:-1]]).sum()
            expected["(after the last op)"] += begin + latency - s.end_ns[mine[-1]]
        self.assertEqual(sum(expected.values()) + s.ns.sum(), s.latency)
        self.assertNotIn("(ops at once)", rest)
        for name, ns in expected.items():
            self.near(rest.get(name, "-"), ns / 1e6)
        self.near(rest["latency of the chunks"], s.latency / 1e6)

    def test_chunks_layers_and_ranks_are_sums_of_their_spans(self):
        s = self.spans
        attention = s.named("attention")
        chunks, parts = self.table("time by depth")[2:], list(s.parts())
        self.assertEqual(len(chunks), len(parts))
        for row, (i, device, _) in zip(chunks, parts):
            self.assertEqual((int(row[0]) - 1, self.cut_device(row, 2)), (s.chunks["chunk"][i], device))
            mine, latency = (s.chunk == s.chunks["chunk"][i]) & (s.device == device), s.chunks["latency_ns"][i]
            self.assertEqual(int(row[1].replace(",", "")), s.chunks["start_token"][i])
            self.near(row[3], latency / 1e6)
            self.near_percent(row[4], 100 * s.ns[mine & attention].sum() / latency)
            self.near_percent(row[8], 100 * (latency - s.ns[mine].sum()) / latency)
        layers = {row[0]: row for row in self.table("time by layer")[2:]}
        self.assertEqual(set(layers), {"outside" if n < 0 else str(n + 1) for n in set(s.layer)})
        for name, row in layers.items():
            mine = s.layer == (-1 if name == "outside" else int(name) - 1)
            self.near(row[1], s.ns[mine].sum() / 1e6)
            self.near_percent(row[2], 100 * s.ns[mine].sum() / s.latency)
            self.near_percent(row[3], 100 * s.ns[mine & attention].sum() / s.ns[mine].sum())
        ranks = [row for row in self.table("time by rank")[2:] if len(row) > 8]
        self.assertEqual([row[0] for row in ranks], ["0", "1", *["for all" for _ in s.devices]])
        for row in ranks:
            mine = (s.rank == (-1 if row[0] == "for all" else int(row[0]))) & (s.device == self.cut_device(row, 1))
            self.assertEqual(int(row[1].replace(",", "")), mine.sum())
            self.near(row[2], s.ns[mine].sum() / 1e6)
            self.near_percent(row[3], 100 * s.ns[mine].sum() / s.latency)
        shown = self.trace().out
        times = sorted(s.ns[s.rank == r].sum() for r in (0, 1))
        self.near_percent(re.search(r"took ([\d.]+) % more", shown)[1], 100 * (times[1] / times[0] - 1))
        comm = s.ns[s.named("all_reduce", "exchange")].sum()
        self.near_percent(re.search(r"communication: ([\d.]+) %", shown)[1], 100 * comm / s.latency)

    def test_the_longest_gaps_are_named(self):
        s, gaps = self.spans, []
        for _, _, mine in s.parts():
            gaps += list(s.begin_ns[mine[1:]] - s.end_ns[mine[:-1]])
        rows = self.table("longest gaps")[2:]
        self.assertEqual(len(rows), 8)
        for row, gap in zip(rows, sorted(gaps, reverse=True)):
            self.near(row[0], gap / 1e3)
            self.assertIn(self.cut_device(row, 2), s.devices)
            self.assertTrue(any(name in row[2] for name in s.names), row)

    # ---- files for others

    def test_the_lines_are_the_spans(self):
        s = self.spans
        rows = list(csv.DictReader(io.StringIO(self.trace("--csv").out)))
        self.assertEqual(len(rows), len(s.ns))
        numbers = ("chunk", "device", "rank", "layer", "begin_ns", "end_ns", "flops", "bytes")
        shown = sorted(tuple(int(row[k]) for k in numbers) + (row["op"], row["role"], row["kernel"]) for row in rows)
        stored = sorted((*map(int, values), *s.ops[op]) for *values, op in
                        zip(*(getattr(s, k) for k in numbers), s.op_id))
        self.assertEqual(shown, stored)
        self.assertTrue(all(int(r["end_ns"]) - int(r["begin_ns"]) == int(r["duration_ns"]) for r in rows))

    def perfetto(self):
        path = self.folder / "trace.json"
        self.assertEqual(self.trace("--perfetto", path).out, "")
        return path

    def test_trace_events_are_what_the_format_asks_for(self):
        s, trace = self.spans, json.loads(self.perfetto().read_text())
        self.assertEqual((trace["displayTimeUnit"], trace["otherData"]["case"]), ("ns", self.case))
        events = trace["traceEvents"]
        threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
        tracks = {(device, f"rank {rank}") for device, rank in zip(s.device, s.rank) if rank >= 0}
        tracks |= {(device, name) for device in s.devices for name in ("chunks and layers", "for all ranks")}
        tracks |= {(device, "beside") for device in s.devices if self.aside().any()}
        self.assertEqual(sorted((pid - 1, name) for (pid, _), name in threads.items()), sorted(tracks))
        processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
        self.assertEqual(processes, [self.case] if len(s.devices) == 1 else
                         [f"{self.case}, device {device}" for device in s.devices])
        slices = [e for e in events if e["ph"] == "X"]
        self.assertEqual({e["ph"] for e in events}, {"X", "C", "M"})
        for e in slices:
            self.assertTrue(isinstance(e["name"], str) and e["dur"] >= 0 and e["ts"] >= 0 and (e["pid"], e["tid"]) in threads, e)
        for thread in threads:  # what a viewer draws inside one another must lie inside one another
            open_ends = []
            for e in sorted((e for e in slices if (e["pid"], e["tid"]) == thread), key=lambda e: (e["ts"], -e["dur"])):
                begin, end = round(e["ts"] * 1000), round(e["ts"] * 1000) + round(e["dur"] * 1000)
                while open_ends and open_ends[-1] <= begin:
                    open_ends.pop()
                self.assertTrue(not open_ends or end <= open_ends[-1], e)
                open_ends.append(end)
        ops = [e for e in slices if e["cat"] == "op"]
        origin = int(trace["otherData"]["begin_monotonic_ns"])
        self.assertEqual(sorted((round(e["ts"] * 1000) + origin, round(e["dur"] * 1000), e["pid"] - 1, e["name"])
                                for e in ops),
                         sorted(zip(s.begin_ns, s.ns, s.device, (s.names[i] for i in s.op_id))))
        self.assertEqual(sum(e["cat"] == "chunk" for e in slices), len(s.devices) * len(s.chunks["chunk"]))

    def sqlite(self):
        path = self.folder / "trace.sqlite"
        result = self.bench("trace", self.path, "--case", self.case, "--sqlite", path)
        if result.code == 5 and "built without SQLite" in result.err:
            self.assertFalse(path.exists())
            self.skipTest("the program was built without SQLite")
        self.assertEqual((result.code, result.out), (0, ""), repr(result))
        db = sqlite3.connect(path)
        self.addCleanup(db.close)
        return db

    def test_the_kernel_summary_of_an_export_finds_the_ops(self):
        s, db = self.spans, self.sqlite()
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
        found = {row[5]: row[:5] for row in db.execute(KERNEL_SUMMARY)}
        self.assertEqual(len(found), len(s.ops))
        for op in s.ops:
            ns = s.ns[s.of_op(op)]
            share, *numbers = found[f"{label(*op[:2])} [{op[2]}]"]
            self.assertEqual(numbers, [ns.sum(), len(ns), ns.min(), ns.max()])
            self.assertAlmostEqual(share, 100 * ns.sum() / s.ns.sum(), delta=0.051)
        rows = db.execute("SELECT deviceId, streamId, chunk, layer, flops FROM CUPTI_ACTIVITY_KIND_KERNEL")
        streams = np.where(self.aside(), 1 + MAX_RANKS, s.rank + 1)
        self.assertEqual(sorted(rows), sorted(zip(s.device.tolist(), streams.tolist(), s.chunk.tolist(),
                                                  s.layer.tolist(), s.flops.tolist())))

    def test_the_range_summary_of_an_export_finds_case_chunks_layers_and_ops(self):
        s, db = self.spans, self.sqlite()
        found = {row[0]: row[1:] for row in db.execute(RANGE_SUMMARY)}
        devices = len(s.devices)
        self.assertNotIn(None, found)
        self.assertEqual(list(db.execute("SELECT globalPid, pid FROM PROCESSES")), [(1 << 24, 1)])
        self.assertEqual(found[f"bench spans:case {self.case}"][1], devices)
        for i, chunk in enumerate(s.chunks["chunk"]):
            self.assertEqual(found[f"bench spans:chunk {chunk + 1}"][:2], (devices * s.chunks["latency_ns"][i], devices))
        threads = db.execute("SELECT globalTid & 0xffffff, count(*) FROM NVTX_EVENTS WHERE textId IN"
                             " (SELECT shortName FROM CUPTI_ACTIVITY_KIND_KERNEL) GROUP BY 1")
        expected = {1 + device: (~self.aside() & (s.device == device)).sum() for device in s.devices}
        expected |= {1 + MAX_RANKS + device: (self.aside() & (s.device == device)).sum() for device in s.devices
                     if self.aside().any()}
        self.assertEqual(dict(threads), expected)
        for name in set(s.names):
            mine = np.isin(s.op_id, [i for i, other in enumerate(s.names) if other == name])
            self.assertEqual(found[f"bench spans:{name}"][:2], (s.ns[mine].sum(), mine.sum()))
        for layer in set(s.layer) - {-1}:
            self.assertGreaterEqual(found[f"bench spans:layer {layer + 1}"][0], s.ns[s.layer == layer].sum())

    def test_the_session_of_an_export_began_with_the_first_chunk(self):
        db = self.sqlite()
        (epoch,) = db.execute("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME").fetchone()
        with h5py.File(self.path, "r") as f:
            run = f["run"].attrs
            expected = int(run["realtime_ns"]) - int(run["monotonic_ns"]) + int(self.spans.chunks["begin_ns"].min())
        self.assertEqual(epoch, expected)
        facts = dict(db.execute("SELECT name, value FROM META_DATA_EXPORT"))
        self.assertEqual((facts["EXPORT_PRODUCT"], facts["DROPPED_SPANS"]), ("chunkbench", "0"))


class Trace(Views, Recorded):
    def test_of_many_chunks_some_are_shown_and_all_when_asked_for(self):
        config = self.write_config(run__spans="all", engine__enforce_eager="true", engine__max_num_batched_tokens=64)
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        for more, chunks in ((), [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 16]), (("--verbose",), list(range(1, 17))):
            shown = self.expect(self.bench("trace", self.file, *more), 0).out.split("time by depth")[1].split("\n\n")[0]
            self.assertEqual([int(n) for n in re.findall(r"^ +(\d+) ", shown, re.M)], chunks)
            self.assertEqual("the other 4 of 16 chunks: --verbose" in shown, not more)

    def test_a_chunk_can_be_looked_at_alone(self):
        s = self.spans
        lines = self.trace("--chunk", "2", "--csv").out.splitlines()
        self.assertEqual(len(lines) - 1, (s.chunk == 1).sum())
        self.assertIn("chunk 2 of 4 after the repeats", self.trace("--chunk", "2").out)
        self.expect(self.bench("trace", self.path, "--case", self.case, "--chunk", "9"), 2, "was not traced", "traced: 1-4;")
        for wrong in ("0", "2x", "", "lastly"):
            self.expect(self.bench("trace", self.path, "--case", self.case, "--chunk", wrong), 2,
                        "not a number from 1, nor last")
        self.assertEqual(self.trace("--chunk", "last", "--csv").out, self.trace("--chunk", "4", "--csv").out)

    def test_shares_say_what_they_are_of(self):
        self.assertIn("share: of the chunks' latency", self.trace().out)
        shown = self.expect(self.bench("show", self.path, "--case", self.case, COLUMNS="200"), 0).out
        table = shown.split("\nwhere the time went")[1]
        self.assertIn("of op time", table)
        s = self.spans
        rows = [re.split(r"  +", line.strip()) for line in table.splitlines()]
        (row,) = [row for row in rows if row[0] == "attention"]
        self.near_percent(row[3], 100 * s.ns[s.named("attention")].sum() / s.ns.sum())

    def test_what_has_no_room_is_left_out_and_named(self):
        for more in ((), ("--verbose",)):
            self.assert_fits(*more)
        shown = self.trace(width=80).out
        self.assertRegex(shown, r"no room for: .*rate \(GB/s\)")
        self.assertEqual(" ".join(shown.split()).count("took"), " ".join(self.trace().out.split()).count("took"))

    def test_one_device_is_not_named(self):
        self.assertNotIn("device", self.trace("--verbose").out.replace("ranks that share a device", ""))

    # ---- what is not as it should be

    def test_a_trace_with_drops_is_marked_everywhere(self):
        path = self.copy(lambda spans: spans.attrs.modify("dropped_records", np.int64(7)))
        self.assertIn("DROPPED  7 spans", self.trace(path=path).out)
        self.assertIn("7 spans found no room", self.trace("--csv", path=path).err)
        out = self.folder / "dropped.json"
        self.assertIn("7 spans found no room", self.trace("--perfetto", out, path=path).err)
        self.assertEqual(json.loads(out.read_text())["otherData"]["dropped_spans"], "7")
        self.assertIn("DROPPED  7 spans", self.trace("--memory", path=path).out)
        self.assertIn("7 spans found no room", self.trace("--memory", "--csv", path=path).err)

    def test_a_file_without_the_chunks_of_its_spans_is_read_and_says_so(self):
        def drop(spans):
            del spans["chunks"]
        shown = self.trace(path=self.copy(drop)).out
        self.assertIn("from its first op to its last", shown)
        self.assertNotIn("(before the first op)", shown)
        self.assertIn("(between ops)", shown)

    def test_kernels_of_another_program_keep_their_names(self):
        """As a result of a GPU has them, looked at where the program was built without CUDA."""
        def rename(spans):
            ops = spans["ops"]
            ops["variant"][...] = [b"wgmma_" + str(i).encode() if drive.text(op) == "linear" else b'x"\n'
                                   for i, op in enumerate(ops["op"][:])]
        path = self.copy(rename)
        out = self.trace("--verbose", path=path).out
        self.assertRegex(out, r"linear gate_up +wgmma_\d+ ")
        self.assertRegex(out, r"attention +x\?\? ")
        written = self.folder / "foreign.json"
        self.trace("--perfetto", written, path=path)
        kernels = {event["args"]["kernel"] for event in json.loads(written.read_text())["traceEvents"]
                   if event.get("cat") == "op"}
        self.assertIn("x??", kernels)
        self.assertTrue(any(kernel.startswith("wgmma_") for kernel in kernels))

    def test_spans_that_make_no_sense_are_refused(self):
        def turn(spans):
            spans["end_ns"][0] = spans["begin_ns"][0] - 1
        self.expect(self.bench("trace", self.copy(turn), "--case", self.case), 6, "ends before it begins")

        def lift(spans):
            spans["rank"][0] = 99
        self.expect(self.bench("trace", self.copy(lift), "--case", self.case), 6, "no op, rank, device or layer")

        def move(spans):
            spans["device"][0] = 99
        self.expect(self.bench("trace", self.copy(move), "--case", self.case), 6, "no op, rank, device or layer")

        def shorten(spans):
            device = spans["device"][:-1]
            del spans["device"]
            spans["device"] = device
        self.expect(self.bench("trace", self.copy(shorten), "--case", self.case), 6, "its number of rows")

    def test_counters_of_the_processor_are_summed_by_op(self):
        s = self.spans
        counted = {"cycles": s.flops // 3 + 1000, "instructions": s.flops // 2 + 2000, "llc_misses": s.bytes // 100}

        def count(spans):
            for name, values in counted.items():
                spans[name] = values
        out = self.trace("--verbose", path=self.copy(count)).out
        rows = [re.split(r"  +", line.strip()) for line in out.split("time by op")[1].split("\n\n")[0].splitlines()]
        for key in set(s.ops):
            mine = s.of_op(key)
            cycles, instructions, misses = (counted[name][mine].sum() for name in counted)
            row = next(row for row in rows if row[:2] == [label(*key[:2]), key[2]])
            self.near(row[-3], cycles / s.ns[mine].sum())
            self.near(row[-2], instructions / cycles)
            if misses > 0:
                self.near(row[-1], s.bytes[mine].sum() / misses)
        lines = list(csv.DictReader(io.StringIO(self.trace("--csv", path=self.copy(count)).out)))
        for name, values in counted.items():
            self.assertEqual(sorted(int(line[name]) for line in lines), sorted(values))

        def forget(spans):
            count(spans)
            spans["instructions"][...] = -1
        self.assertRegex(self.trace(path=self.copy(forget)).out, r"attention .* - +\S+\n")

        def cut(spans):
            count(spans)
            del spans["llc_misses"]
            spans["llc_misses"] = counted["llc_misses"][:-1]
        self.expect(self.bench("trace", self.copy(cut), "--case", self.case), 6, "its number of rows")

    def test_counters_that_are_wanted_are_there_or_have_their_reason(self):
        config = self.write_config(run__spans="all", engine__enforce_eager="true", trace__counters="true")
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        out = self.expect(self.bench("trace", self.file), 0).out
        with h5py.File(self.file, "r") as f:
            spans = f["case"][self.case]["spans"]
            note = drive.text(spans.attrs["counters_note"])
            if "cycles" in spans:
                self.assertTrue((spans["cycles"][:] > 0).all() and note == "")
                self.assertIn("a cycle", out)
                return
            self.assertNotEqual(note, "")
            self.assertIn("counters absent: " + note, out)
        if re.search("no hardware counters|not permitted", note):
            self.skipTest("the processor's own: " + note)
        self.fail(note)

    def test_a_case_that_is_not_there_or_has_no_spans_is_named(self):
        self.expect(self.bench("trace", self.path), 2, "--case")
        self.expect(self.bench("trace", self.path, "--case", self.case[:-1]), 2, "did you mean", self.case)
        config = self.write_config(run__spans="none", engine__enforce_eager="true")
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        self.expect(self.bench("trace", self.file), 4, "has no spans", "run.spans=all")

    def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(self):
        for option in ("--perfetto", "--sqlite"):
            result = self.bench("trace", self.path, "--case", self.case, option, "/nowhere/at/all")
            if result.code != 5:
                self.expect(result, 6, "/nowhere/at/all", "No such file")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_only_a_regular_file_is_replaced_and_never_the_result(self):
        pipe, link, copy = self.folder / "pipe", self.folder / "link", self.copy(lambda spans: None)
        os.mkfifo(pipe)
        link.symlink_to("/proc/self/fd/1")  # what /dev/stdout is
        before = copy.read_bytes()
        for option in ("--perfetto", "--sqlite"):
            for target, reason, code in ((pipe, "not a regular file", 6), (link, "not a regular file", 6),
                                         (copy, "the result itself", 2)):
                result = self.bench("trace", copy, "--case", self.case, option, target)
                if result.code != 5:
                    self.expect(result, code, target.name, reason)
        self.assertTrue(pipe.is_fifo() and link.is_symlink())
        self.assertEqual(copy.read_bytes(), before)


class TraceOfSumsBesideOtherOps(Views, Recorded):
    """On a CPU in turn: nothing is at once, but such ops have tracks of their own."""
    values = {"engine__devices": 2, "engine__exchange_overlap": "true", "engine__block_rows": 40}
    overlaps = True

    def test_how_much_of_communication_was_hidden_is_said(self):
        self.assertIn("% of the chunks' latency, 0.0 % of it while other ops ran", self.trace().out)
        self.assertIn("exchange ref beside other ops", self.bench("show", self.path, "--case", self.case).out)


class TraceOfTwoDevices(Views, Recorded):
    values = {"engine__devices": 2}

    def test_the_head_says_how_long_on_how_many_and_shares_add_up(self):
        s, shown = self.spans, self.trace().out
        time, unit = re.search(r"traced .*: ([\d.]+) (m?s) on 2 devices, ", shown).groups()
        self.assertAlmostEqual(float(time) * {"s": 1e9, "ms": 1e6}[unit] / (s.latency / 2), 1, delta=0.01)
        rows = [row for row in self.table("time by op")[2:] if len(row) in (3, 8)]
        self.assertEqual((rows[-1][0], rows[-1][2]), ("latency of the chunks", "100.0"))
        shares = [float(row[4 if len(row) == 8 else 2].replace("-", "0")) for row in rows[:-1]]
        self.assertAlmostEqual(sum(shares), 100, delta=0.05 * len(shares))

    def test_who_waits_in_exchanges_is_named(self):
        s = self.spans
        exchange = [s.ns[s.named("exchange") & (s.device == device)].sum() for device in s.devices]
        rows = [row for row in self.table("time by device")[2:] if len(row) == 6]
        self.assertEqual([int(row[0]) for row in rows], s.devices)
        for device, row in zip(s.devices, rows):
            mine = s.device == device
            self.assertEqual(int(row[1].replace(",", "")), mine.sum())
            self.near(row[2], s.ns[mine].sum() / 1e6)
            self.near_percent(row[3], 200 * s.ns[mine].sum() / s.latency)
            self.near(row[4], exchange[device] / 1e6)
            self.near_percent(row[5], 200 * exchange[device] / s.latency)
        most, least = np.argmax(exchange), np.argmin(exchange)
        self.assertIn(f"skew: device {most} waited for device {least}: ", self.trace().out)

    def test_devices_of_an_older_file_which_does_not_name_them_are_found(self):
        def drop(spans):
            del spans["device"]
        for view in ("--verbose", "--csv"):
            self.assertEqual(self.trace(view, path=self.copy(drop)).out, self.trace(view).out)

    def test_of_many_chunks_fewer_are_shown_with_more_devices(self):
        config = self.write_config(run__spans="all", engine__enforce_eager="true", engine__max_num_batched_tokens=64,
                                   **self.values)
        self.expect(self.bench("run", config, "-o", self.file, "--quiet"), 0)
        shown = self.expect(self.bench("trace", self.file), 0).out.split("time by depth")[1].split("\n\n")[0]
        rows = re.findall(r"^ +(\d+) +\d+ +(\d) ", shown, re.M)
        self.assertEqual(rows, [(str(chunk), device) for chunk in (1, 4, 7, 10, 13, 16) for device in "01"])
        self.assertIn("the other 10 of 16 chunks: --verbose", shown)


if __name__ == "__main__":
    unittest.main()

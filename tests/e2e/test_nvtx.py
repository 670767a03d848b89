"""NVTX ranges, as a tool sees them: a recorder in a tool's place (fakes/nvtx_recorder.c) writes what the workers tell it,
and the ranges must nest, close, carry their names and payloads, and be those that [trace] nvtx asks for."""
import os
import re
import sys
import unittest

import drive

recorder = drive.build / "tests" / "libnvtx_recorder.so"
if not recorder.exists():
    print("skipped: built without NVTX's headers")
    sys.exit(77)

CHUNKS = [(0, 0, 256), (1, 256, 256), (2, 512, 256), (3, 768, 256)]


class Range:
    def __init__(self, name, payload, parent):
        self.name, self.payload, self.parent = name, payload, parent
        self.inner, self.closed = [], False
        if parent:
            parent.inner.append(self)

    def named(self, name):
        return [r for r in self.inner if r.name == name]

    def all(self, name):
        return self.named(name) + [found for r in self.inner for found in r.all(name)]

    def depth(self):
        return max([1 + r.depth() for r in self.inner], default=0)


class Record:
    """What one process told the tool: a tree of ranges. Raises where a range closes that is not open."""

    def __init__(self, path):
        self.root, self.threads, self.domains, self.schemas, self.destroyed = Range("", None, None), set(), {}, [], 0
        now = self.root
        for line in path.read_text().splitlines():
            words = line.split("\t")
            if words[0] == "push":
                assert self.domains[words[2]] == "bench", line
                now = Range(words[3], words[4], now)
                self.threads.add(words[1])
            elif words[0] == "pop":
                assert now.parent is not None, f"{path}: a range closes that never opened"
                now.closed, now = True, now.parent
                self.threads.add(words[1])
            elif line.startswith("domain "):
                self.domains[line.split()[1]] = line.split()[2]
            elif line.startswith("schema "):
                self.schemas.append(line)
            else:
                assert line.startswith("destroy "), line
                self.destroyed += 1
        self.open, r = [], now
        while r.parent:
            self.open.insert(0, r.name)
            r = r.parent


def chunk(chunk_start_tokens):
    return "schema 77: %d %d %d" % chunk_start_tokens


class Nvtx(drive.BenchTest):
    def records(self, code=0, program=drive.bench, env=None, **values):
        """Runs the small sweep under the recorder; a record per worker that had something to say."""
        base = self.folder / "nvtx"
        for old in self.folder.glob("nvtx.*"):
            old.unlink()
        result = self.bench("run", self.write_config(**values), "-o", self.file, "--quiet", "--force",
                            program=program,
                            NVTX_INJECTION64_PATH=str(recorder), NVTX_RECORDER_FILE=str(base), **(env or {}))
        self.expect(result, code)
        found = sorted(self.folder.glob("nvtx.*"), key=lambda p: p.stat().st_mtime_ns)
        return [Record(path) for path in found if path.stat().st_size]

    def cases_of(self, records):
        return [case for record in records for run in record.root.named("run") for case in run.inner
                if case.name != "load"]

    def all_closed(self, record):
        self.assertEqual(record.open, [])
        self.assertEqual(len(record.threads), 1)
        self.assertEqual(record.destroyed, 1)

    def test_ranges_of_eager_and_recorded_steps_nest_down_to_the_ops_of_every_rank(self):
        records = self.records(run__warmup=1, engine__dual_chunk_attention="false")
        for record in records:
            self.all_closed(record)
            self.assertEqual([r.name for r in record.root.inner], ["run"])
            self.assertEqual([r.name for r in record.root.inner[0].inner][0], "load")
            self.assertEqual(len(record.schemas), 1)
            self.assertEqual(record.schemas[0], "schema 77 chunk 12 chunk:0:1 start:4:1 tokens:8:1")
        cases = self.cases_of(records)
        self.assertEqual({case.name for case in cases}, set(self.cases()))
        shapes = []
        for case in cases:
            self.assertEqual([(r.name, r.payload) for r in case.inner], [("warm-up", "-1"), ("repeat", "0")])
            for one in case.inner:
                chunks = one.named("chunk")
                self.assertEqual([r.payload for r in chunks], [chunk(c) for c in CHUNKS])
                for r in chunks:
                    self.look_at_chunk(r, r is chunks[-1])
            tokens = case.inner[1].named("token")
            self.assertGreater(len(tokens), 1)
            self.assertEqual([r.payload for r in tokens], [str(i) for i in range(len(tokens))])
            self.assertEqual(case.inner[0].named("token"), [])
            shapes.append([[(r.name, r.payload) for r in layer.inner] for layer in case.all("layer")])
        self.assertEqual(len(shapes), 2)
        self.assertEqual(shapes[0], shapes[1])  # eager and recorded

    def look_at_chunk(self, r, last):
        layers = r.named("layer")
        numbers = [int(layer.payload) for layer in layers]
        self.assertEqual(numbers, list(range(len(set(numbers)))) + numbers[-1:] * (len(numbers) - len(set(numbers))))
        for layer in layers:
            self.assertEqual({op.payload for op in layer.named("rope_cache")}, {"0", "1"})
            self.assertIn("linear qkv", [op.name for op in layer.inner])
            for op in layer.inner:
                self.assertRegex(op.name, r"^[a-z_]+( [a-z_]+)?$")
                self.assertIn(op.payload, ("-1", "0", "1"))
                self.assertEqual(op.inner, [])
        outside = [op.name for op in r.inner if op.name != "layer"]
        self.assertEqual(outside[:2], ["rope_table", "embed"])
        self.assertEqual("logits head" in outside, last)

    def test_the_level_says_how_deep_ranges_go(self):
        depth, names = {}, {}
        for level in ("case", "chunk", "op"):
            records = self.records(trace__nvtx=level)
            for record in records:
                self.all_closed(record)
            depth[level] = max(record.root.depth() for record in records)
            names[level] = {r.name for case in self.cases_of(records) for one in case.inner for r in one.inner}
        self.assertEqual(depth, {"case": 3, "chunk": 4, "op": 6})
        self.assertEqual(names, {"case": set(), "chunk": {"chunk", "token"}, "op": {"chunk", "token"}})
        self.assertEqual(self.records(trace__nvtx="off"), [])

    def test_a_tool_that_knows_no_schemas_gets_the_number_of_the_chunk(self):
        records = self.records(trace__nvtx="chunk", env={"NVTX_RECORDER_PLAIN": "1"})
        for case in self.cases_of(records):
            self.assertEqual([r.payload for r in case.all("chunk")], ["0", "1", "2", "3"])

    def test_one_chunk_of_each_case_is_for_the_profiler(self):
        for wanted, number in (("last", 3), ("1", 1), ("99", 3), ("none", None)):
            cases = self.cases_of(self.records(trace__profile_chunk=wanted, run__repeats=2, run__warmup=1))
            self.assertEqual(len(cases), 2)
            for case in cases:
                found = case.all("profile")
                if number is None:
                    self.assertEqual(found, [])
                    continue
                self.assertEqual([(r.payload, r.parent.name, r.parent.payload) for r in found],
                                 [(str(number), "repeat", "0")])
                self.assertEqual([r.payload for r in found[0].inner], [chunk(CHUNKS[number])])
        cases = self.cases_of(self.records(trace__profile_chunk="1", run__coverage="sample:3", run__repeats=1))
        for case in cases:  # chunk 1 may be left out: the next that runs
            ran = [int(re.match(r"schema 77: (\d+)", r.payload)[1]) for r in case.all("chunk")]
            self.assertEqual(case.all("profile")[0].payload, str(min(n for n in ran if n >= 1)))

    def test_the_pass_for_spans_has_its_own_name(self):
        for case in self.cases_of(self.records(trace__nvtx="chunk", run__spans="all")):
            self.assertEqual([(r.name, r.payload) for r in case.inner], [("repeat", "0"), ("spans", "1")])
            self.assertEqual(len(case.inner[1].inner), len(CHUNKS))

    def test_a_worker_that_dies_leaves_open_what_it_was_in(self):
        records = self.records(code=5, program=drive.faulty,
                               env={"BENCH_TEST_FAULT": "segv:2", "BENCH_TEST_CASE": "*eager*"})
        died = [record for record in records if record.open]
        self.assertEqual(len(died), 1)
        eager = next(case for case in self.cases() if "eager" in case)
        self.assertEqual(died[0].open, ["run", eager, "repeat", "chunk"])
        self.assertEqual(died[0].root.all("chunk")[-1].payload, chunk(CHUNKS[2]))
        for record in records:
            if record is not died[0]:
                self.all_closed(record)

    def test_ranges_close_where_an_output_is_wrong(self):
        for fault in ("drop:1", "nan_logits", "no_work"):
            for record in self.records(code=3, program=drive.faulty, engine__enforce_eager="true",
                                       env={"BENCH_TEST_FAULT": fault}):
                self.all_closed(record)

    def test_an_interrupted_run_closes_its_ranges(self):
        base = self.folder / "nvtx"
        process = self.start("run", self.write_config(run__repeats=50), "-o", self.file, program=drive.faulty,
                             NVTX_INJECTION64_PATH=str(recorder), NVTX_RECORDER_FILE=str(base),
                             BENCH_TEST_FAULT="slow:1")
        self.wait_for(lambda: any(" chunk" in p.read_text().replace("\t", " ") for p in self.folder.glob("nvtx.*")))
        process.send_signal(2)
        self.expect(self.finish(process), 130)
        records = [Record(path) for path in self.folder.glob("nvtx.*") if path.stat().st_size]
        self.assertTrue(records)
        for record in records:
            self.all_closed(record)

    def test_a_chunk_that_is_none_is_refused_with_its_place(self):
        config = self.write_config(trace__profile_chunk="first")
        self.expect(self.bench("plan", config), 2, "profile_chunk = first", "none, last or the number of a chunk")
        self.expect(self.bench("plan", self.write_config(trace__nvtx="ops")), 2, "off, case, chunk or op")

    def test_without_a_tool_nothing_changes(self):
        self.assertNotIn("NVTX_INJECTION64_PATH", os.environ)
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--quiet"), 0)
        self.assertEqual(list(self.folder.glob("nvtx.*")), [])


if __name__ == "__main__":
    unittest.main()

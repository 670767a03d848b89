"""bench run --chunk N --once: that chunk alone, once, for a profiler, in a result that says so."""
import json
import unittest

import drive
import h5py

recorder = drive.build / "tests" / "libnvtx_recorder.so"
EAGER = "needle-1k_c256_eager_tp2_bf16"


class Once(drive.BenchTest):
    def once(self, chunk, *args, code=0, words=(), program=drive.bench, env=None, **values):
        config = self.write_config(**values)
        result = self.bench("run", config, "--only", EAGER, "--chunk", str(chunk), "--once", "-o", self.file, "--force",
                            *args, program=program, **(env or {}))
        return self.expect(result, code, *words)

    def test_the_chunk_runs_once_where_it_stands_and_nothing_else_does(self):
        for chunk, start, length in ((1, 0, 256), (3, 512, 256), ("last", 768, 256)):
            self.once(chunk)
            with h5py.File(self.file, "r") as f:
                case = f["case"][EAGER]
                self.assertEqual(list(f["case"]), [EAGER])
                rows = {name: case["chunks"][name][:].tolist() for name in case["chunks"]}
                self.assertEqual((rows["start_token"], rows["n_tokens"], rows["repeat"]), ([start], [length], [0]))
                self.assertGreater(rows["latency_ns"][0], 0)
                for empty in ("memory", "decode", "ttft", "spans"):
                    self.assertEqual(case[empty].attrs["rows"], 0, empty)
                self.assertEqual(len(case["outputs"]["token_ids"]), 0)
                number = 4 if chunk == "last" else chunk
                self.assertRegex(drive.text(case.attrs["reason"]),
                                 rf"^chunk {number} of 4 alone, once, cold, against a synthetic cache \(--once\): [0-9.]+ \w+$")

    def test_what_is_shown_claims_no_more(self):
        shown = self.once(2).out + self.expect(self.bench("show", self.file, "--case", EAGER), 0).out
        self.assertIn("chunk 2 of 4 alone, once", shown)
        self.assertIn("TTFT       not measured", shown)
        self.assertNotIn("attention auto", shown)
        self.assertIn("not checked", shown)
        self.assertNotRegex(shown, r"spot ok|~\d")
        traced = self.expect(self.bench("trace", self.file, "--case", EAGER), 4, "has no spans", "chunk 2 of 4 alone, once")
        self.assertNotIn("run.spans", traced.err)  # would not help
        traced = self.expect(self.bench("trace", self.file, "--case", EAGER, "--kernels"), 4, "has no kernels", "chunk 2 of 4 alone, once")
        summary = json.loads(self.expect(self.bench("show", self.file, "--json"), 0).out)
        case = summary["cases"][0]
        self.assertIsNone(case.get("ttft_median_ns") or None)
        for check in case["checks"].values() if isinstance(case.get("checks"), dict) else case.get("checks", []):
            self.assertEqual(check["verdict"], "not checked")

    @unittest.skipUnless(recorder.exists(), "built without NVTX's headers")
    def test_a_profiler_that_waits_sees_that_chunk_alone(self):
        base = self.folder / "nvtx"
        self.once(3, env={"NVTX_INJECTION64_PATH": str(recorder), "NVTX_RECORDER_FILE": str(base)}, trace__nvtx="op")
        lines = [line.split("\t") for path in self.folder.glob("nvtx.*") for line in path.read_text().splitlines()]
        pushed = [line[3] for line in lines if line[0] == "push"]
        self.assertEqual([pushed.count(name) for name in ("chunk", "profile", "warm-up", "repeat", "token")],
                         [1, 1, 0, 0, 0])
        self.assertLess(pushed.index("profile"), pushed.index("chunk"))
        self.assertIn("attention", pushed)
        self.assertFalse([name for name in pushed if name.startswith("tap")])  # they serve a check, and nothing is checked

    def test_a_recorded_step_is_replayed(self):
        config = self.write_config()
        graph = EAGER.replace("eager", "graph")
        self.expect(self.bench("run", config, "--only", graph, "--chunk", "2", "--once", "-o", self.file), 0)
        with h5py.File(self.file, "r") as f:
            self.assertEqual(f["case"][graph]["chunks"]["replayed"][:].tolist(), [1])

    def test_no_watchdog_ends_a_chunk_that_takes_long(self):
        env = {"BENCH_TEST_FAULT": "very_slow_traced:1"}
        self.once(2, program=drive.faulty, env=env, run__watchdog="1s")

    def test_a_worker_that_dies_is_told_of(self):
        env = {"BENCH_TEST_FAULT": "abort_traced:1"}
        self.once(2, code=5, program=drive.faulty, env=env, words=("crashed",))

    def test_what_cannot_be_meant_is_refused_before_anything_runs(self):
        config = self.write_config()
        for args, words in ((("--chunk", "2"), ("--chunk needs", "--once")), (("--once",), ("--once needs", "--chunk")),
                            (("--chunk", "0", "--once"), ("not a number from 1",)),
                            (("--chunk", "2x", "--once"), ("not a number from 1",)),
                            (("--chunk", "5", "--once"), ("--chunk 5", "has 4")),
                            (("--chunk", "1", "--once", "--resume"), ("excludes", "--resume")),
                            (("--chunk", "1", "--once", "--dry-run"), ("excludes", "--once"))):
            self.expect(self.bench("run", config, "-o", self.file, *args), 2, *words)
        self.assertFalse(self.file.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)

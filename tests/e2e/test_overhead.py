"""bench overhead: every probe that can be had is measured in turn against none, what cannot is named, and nothing is left
behind. A library that tests speak for stands in for CUPTI (fakes/fake_cupti.c)."""
import json
import signal
import statistics
import unittest

import drive

fake = drive.build / "tests" / "libfake_cupti.so"
CASE = "needle-1k_c256_eager_tp2_bf16"


class Overhead(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()

    def tearDown(self):
        self.assertEqual(list(self.temporary.iterdir()), [])  # whatever happened

    def overhead(self, *args, code=0, words=(), program=drive.bench, env=None, **values):
        result = self.bench("overhead", self.write_config(**values), *args, program=program, TMPDIR=str(self.temporary),
                            **(env or {}))
        return self.expect(result, code, *words)

    def arms(self, *args, **more):
        told = json.loads(self.overhead("--json", "--quiet", *args, **more).out)
        self.assertEqual((told["schema"], told["schema_version"]), ("chunkbench-overhead", 1))
        return told, {(arm["mode"], arm["probe"]): arm for arm in told["arms"]}

    def look_at(self, told, arm, none):
        samples = arm["latency_ns"]
        self.assertEqual(len(samples), told["rounds"] * told["repeats"])
        self.assertGreater(min(samples), 0)
        self.assertEqual((arm["min_ns"], arm["max_ns"]), (min(samples), max(samples)))
        self.assertAlmostEqual(arm["median_ns"], statistics.median(samples), delta=1)
        self.assertAlmostEqual(arm["ratio"], arm["median_ns"] / none["median_ns"], delta=1e-9)
        rounds = [[statistics.median(a["latency_ns"][i * told["repeats"]:][:told["repeats"]])
                   for i in range(told["rounds"])] for a in (arm, none)]
        ratios = [mine / of_none for mine, of_none in zip(*rounds)]
        self.assertAlmostEqual(arm["ratio_min"], min(ratios), delta=1e-6)
        self.assertAlmostEqual(arm["ratio_max"], max(ratios), delta=1e-6)

    def test_what_the_cpu_has_is_measured_and_the_rest_is_named(self):
        told, arms = self.arms("--case", CASE, "--rounds", 2)
        self.assertEqual((told["case"], told["chunk"], told["start_token"]), (CASE, 3, 768))
        self.assertEqual((told["rounds"], told["repeats"]), (2, 3))
        self.assertEqual(set(arms), {("eager", p) for p in ("none", "spans", "nvtx", "cupti")} |
                         {("graph", p) for p in ("none", "cupti")})
        for mode, probe in arms:
            arm = arms[mode, probe]
            if probe == "cupti":
                self.assertIn("CUPTI records GPUs, this ran on the CPU", arm["left_out"])
                self.assertNotIn("median_ns", arm)
            elif not arm["left_out"]:
                self.look_at(told, arm, arms[mode, "none"])
        self.assertEqual(arms["eager", "none"]["ratio"], 1)
        self.assertTrue(arms["eager", "nvtx"]["left_out"] or arms["eager", "nvtx"]["note"] == "no tool listens")

    def test_cupti_is_measured_in_both_modes(self):
        told, arms = self.arms("--chunk", 2, "--rounds", 1, "--repeats", 2, program=drive.faulty,
                               env={"BENCH_TEST_CUPTI": str(fake), "FAKE_CUPTI": "works"})
        self.assertEqual((told["chunk"], told["start_token"]), (1, 256))
        for mode in ("eager", "graph"):
            self.look_at(told, arms[mode, "cupti"], arms[mode, "none"])
            self.assertGreater(arms[mode, "cupti"]["kernels"], 10)
            self.assertEqual(arms[mode, "cupti"]["dropped_records"], 0)
        kernels = arms["eager", "cupti"]["kernels"] # of the chunk, however often it ran
        self.overhead("--chunk", 2, "--rounds", 2, "--repeats", 2, program=drive.faulty, words=(f" {kernels} kernels a chunk",),
                      env={"BENCH_TEST_CUPTI": str(fake), "FAKE_CUPTI": "works"})

    def test_a_person_sees_a_line_for_each_and_what_is_at_work(self):
        result = self.overhead("--case", CASE.replace("eager", "graph"), "--rounds", 1, "--repeats", 1,
                               words=("chunk 4 of 4, from token 768: 1 round of 1", "over none", "left out: graph, CUPTI"))
        self.assertIn("round 1 of 1: eager, spans", result.err)
        lines = [line.split() for line in result.out.splitlines()]
        self.assertIn(["eager", "none", "1"], [words[:3] for words in lines])
        self.assertIn(["graph", "none", "1"], [words[:3] for words in lines])
        self.assertLessEqual(max(map(len, result.out.splitlines())), 100)

    def test_what_cannot_be_measured_is_refused(self):
        self.overhead("--case", CASE.replace("eager", "eagre"), code=2, words=("did you mean " + CASE,))
        self.overhead(code=2, words=("which case?",), engine__max_num_batched_tokens="256, 512")
        self.overhead("--chunk", 5, code=2, words=("--chunk 5: ", "has 4 chunks"))
        for option, value in (("--chunk", "0"), ("--rounds", "x"), ("--rounds", "101"), ("--repeats", "-1")):
            self.overhead(option, value, code=2, words=(option,))
        self.overhead(code=2, words=("engine", "expected"), engine__threads="many")

    def test_a_chunk_that_does_not_run_is_a_failure(self):
        self.overhead("--quiet", code=5, words=("SIGABRT",), program=drive.faulty,
                      env={"BENCH_TEST_FAULT": "abort_traced:3"})

    def test_ctrl_c_ends_it(self):
        process = self.start("overhead", self.write_config(), "--rounds", 50, program=drive.faulty,
                             TMPDIR=str(self.temporary), BENCH_TEST_FAULT="slow_traced:3")
        self.wait_for_line(process, "round 1 of 50")
        process.send_signal(signal.SIGINT)
        self.expect(self.finish(process), 130)


unittest.main()

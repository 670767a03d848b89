"""bench run from a configuration to a checked result file, and the options around it."""
import json
import unittest

import drive


class Run(drive.BenchTest):
    def test_a_run_leaves_one_complete_file_with_every_case_ok(self):
        result = self.bench("run", self.write_config(), "-o", self.file)
        self.expect(result, 0, "ok")
        cases = self.cases()
        self.assertEqual(len(cases), 2)
        self.assertEqual({status for status, _ in cases.values()}, {"ok"}, cases)
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())
        for case_id in cases:
            self.assertIn(case_id, result.out)
        self.assertNotIn("\033", result.out + result.err)

    def test_json_is_one_object_on_stdout_and_nothing_else(self):
        result = self.bench("run", self.write_config(), "-o", self.file, "--json")
        self.assertEqual(result.code, 0, repr(result))
        self.assertIsInstance(json.loads(result.out), dict)

    def test_quiet_prints_the_verdict_alone(self):
        result = self.bench("run", self.write_config(), "-o", self.file, "--quiet")
        self.assertEqual(result.code, 0, repr(result))
        self.assertEqual(result.err, "")
        self.assertEqual(result.out, "ok: 2 of 2 cases ran: 2 with the right answer, 0 right at the spots "
                                     f"checked, 0 not checked: {self.file}\n")

    def test_only_runs_the_cases_that_match(self):
        result = self.bench("run", self.write_config(), "-o", self.file, "--only", "*_graph_*")
        self.expect(result, 0)
        self.assertEqual(["graph" in case_id for case_id in self.cases()], [True])

    def test_only_without_a_match_is_a_usage_error_and_leaves_nothing(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--only", "nothing"), 2, "nothing")
        self.assertFalse(self.file.exists() or self.partial.exists())

    def test_dry_run_shows_the_plan_and_leaves_nothing(self):
        result = self.bench("run", self.write_config(run__output=self.file), "--dry-run", "--no-color")
        self.expect(result, 0, "_graph_", "_eager_")
        self.assertFalse(self.file.exists() or self.partial.exists())

    def test_dry_run_writes_no_result_wherever_it_should_go(self):
        for options in (["-o", self.file], ["--force"], ["-o", self.file, "--force"]):
            with self.subTest(options):
                result = self.bench("run", self.write_config(), "--dry-run", *options)
                self.expect(result, 0, "_graph_", f"note: a dry run writes no result: {options[0]} has no effect\n")
                self.assertFalse(self.file.exists() or self.partial.exists())

    def test_dry_run_refuses_what_a_plan_would_ignore(self):
        for options in (["--only", "*_graph_*"], ["--resume"], ["--quiet"]):
            with self.subTest(options):
                self.expect(self.bench("run", self.write_config(), "--dry-run", *options), 2, "--dry-run excludes",
                            options[0])

    def test_a_result_is_not_overwritten_without_force(self):
        config = self.write_config()
        self.file.write_text("precious")
        self.expect(self.bench("run", config, "-o", self.file), 2, "--force")
        self.assertEqual(self.file.read_text(), "precious")
        self.expect(self.bench("run", config, "-o", self.file, "--force"), 2, "not a result of bench, not replaced")
        self.assertEqual(self.file.read_text(), "precious")
        self.file.unlink()
        self.expect(self.bench("run", config, "-o", self.file), 0)
        self.expect(self.bench("run", config, "-o", self.file, "--force", "--only", "*eager*"), 0)
        self.assertEqual(len(self.cases()), 1)

    def test_the_default_file_is_named_after_configuration_and_time(self):
        self.expect(self.bench("run", self.write_config(), "--only", "*eager*"), 0)
        found = [path.name for path in (self.folder / "results" / "raw").iterdir()]
        self.assertEqual(len(found), 1)
        self.assertRegex(found[0], r"^small-\d{8}-\d{6}\.h5$")

    def test_two_runs_into_one_file_do_not_mix(self):
        config = self.write_config()
        first = self.start("run", config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="slow:1")
        self.wait_for(lambda: list(self.partial.glob("plan.json")))
        for option in ([], ["--force"], ["--resume"]):
            self.expect(self.bench("run", config, "-o", self.file, *option), 2, "another run", str(first.pid))
        self.expect(self.finish(first), 0)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})

    def test_set_overrides_the_file(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--set", "engine.enforce_eager=true",
                               "--set", "engine.max_num_batched_tokens=300"), 0)
        self.assertEqual(["c300" in case_id for case_id in self.cases()], [True])

    def test_colour_is_never_written_to_a_pipe(self):
        result = self.bench("run", self.write_config(), "-o", self.file, program=drive.faulty,
                            BENCH_TEST_FAULT="abort:0")
        self.assertNotIn("\033", result.out + result.err)

    def test_spans_come_from_a_pass_of_their_own(self):
        self.expect(self.bench("run", self.write_config(run__spans="all"), "-o", self.file), 0)
        import h5py
        with h5py.File(self.file, "r") as f:
            for group in f["case"].values():
                self.assertEqual(set(group["chunks"]["repeat"][:]), {0})
                self.assertEqual(set(group["spans"]["repeat"][:]), {1})
                self.assertEqual(set(group["spans"]["chunk"][:]), {0, 1, 2, 3})

    def test_spans_come_from_the_warm_up_unless_told_otherwise(self):
        self.expect(self.bench("run", self.write_config(run__warmup="1"), "-o", self.file), 0)
        import h5py
        with h5py.File(self.file, "r") as f:
            for group in f["case"].values():
                self.assertEqual(set(group["chunks"]["repeat"][:]), {0})
                self.assertEqual(set(group["spans"]["repeat"][:]), {-1})
                self.assertEqual(set(group["spans"]["chunk"][:]), {0, 1, 2, 3})

    def test_a_sampled_case_estimates_and_is_not_checked(self):
        self.expect(self.bench("run", self.write_config(run__coverage="sample:3", prompt__source="needle:2k",
                                                             check__spot="0"), "-o", self.file), 0, "2 not checked")
        import h5py
        with h5py.File(self.file, "r") as f:
            for group in f["case"].values():
                self.assertEqual(list(group["chunks"]["chunk"][:])[::len(group["chunks"]["chunk"]) - 1], [0, 7])
                self.assertEqual(len(group["chunks"]["chunk"]), 3)
                self.assertEqual(len(group["decode"]["token_id"]), 0)


if __name__ == "__main__":
    unittest.main()

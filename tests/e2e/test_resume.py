"""--resume runs what is not ok, keeps what is, and refuses another configuration."""
import os
import unittest

import drive


class Resume(drive.BenchTest):
    def crash(self, case="*_eager_*"):
        self.config = self.write_config()
        self.expect(self.bench("run", self.config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="abort:1",
                               BENCH_TEST_CASE=case), 5)

    def fragments(self):
        return {path.name: path.stat().st_mtime_ns for path in self.partial.glob("case-*.h5")}

    def test_only_what_is_not_ok_runs_again(self):
        self.crash()
        before = self.fragments()
        self.assertEqual(len(before), 2)
        # a crash again: the fragment of the good case is the same file still
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume", program=drive.faulty,
                               BENCH_TEST_FAULT="exit:2", BENCH_TEST_CASE="*"), 5, "code 7")
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok", "crashed"})
        result = self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 0)
        self.assertNotIn("_graph_tp2_bf16: begins", result.err)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())

    def test_a_changed_configuration_is_refused_and_named(self):
        self.crash()
        result = self.bench("run", self.config, "-o", self.file, "--resume", "--set", "run.repeats=2", "--set",
                            "sampling.max_tokens=31")
        self.expect(result, 2, "[run] repeats: was 1, is 2", "[sampling] max_tokens: was 32, is 31")
        self.assertEqual(len(self.fragments()), 2)

    def test_a_damaged_fragment_runs_again(self):
        self.crash()
        for path in self.partial.glob("case-*_graph_*.h5"):
            os.truncate(path, 1000)
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 0)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})

    def test_nothing_to_resume(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--resume"), 2, "nothing to resume")
        self.assertFalse(self.partial.exists())

    def test_the_decisions_of_the_first_plan_stand(self):
        self.crash()
        plan = (self.partial / "plan.json").read_text()
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume", program=drive.faulty,
                               BENCH_TEST_FAULT="abort:1", BENCH_TEST_CASE="*_eager_*"), 5)
        self.assertEqual((self.partial / "plan.json").read_text(), plan)

    def test_resume_and_force_exclude_each_other(self):
        self.expect(self.bench("run", self.write_config(), "--resume", "--force"), 2, "--force")


if __name__ == "__main__":
    unittest.main()

"""--resume runs what is not ok, keeps what is, and refuses another configuration and other texts."""
import hashlib
import os
import unittest

import drive


class Resume(drive.BenchTest):
    def crash(self, case="*_eager_*", **values):
        self.config = self.write_config(**values)
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

    def test_a_changed_text_is_refused_and_named(self):
        path = self.folder / "prompt.txt"
        path.write_bytes(b"a" * 700)
        self.crash(prompt__source=f"file:{path}")
        before = self.fragments()
        path.write_bytes(b"b" * 700)  # of the same length
        was, now = (hashlib.sha256(letter * 700).hexdigest() for letter in (b"a", b"b"))
        result = self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 2,
                             f"file:{path}: sha256 was {was}, is {now}", "--force")
        self.assertNotIn("begins", result.err)
        self.assertEqual(self.fragments(), before)
        path.write_bytes(b"a" * 7000000)  # a length that no configuration would allow is a change like any other
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 2, f"sha256 was {was}")
        path.write_bytes(b"a" * 700)
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 0)
        self.assertTrue(self.is_complete())

    def test_a_text_that_changes_under_a_run_is_found_by_its_checksum(self):
        path = self.folder / "prompt.txt"
        path.write_bytes(b"a" * 700)
        config = self.write_config(prompt__source=f"file:{path}")
        process = self.start("run", config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="slow:1")
        self.wait_for_line(process, "_eager_", "begins")
        path.write_bytes(b"b" * 700)
        self.expect(self.finish(process), 5, "has changed since the run was planned", "sha256")
        self.assertNotIn("ok", [status for case_id, (status, _) in self.cases().items() if "_graph_" in case_id])

    def test_a_damaged_fragment_runs_again(self):
        self.crash()
        for path in self.partial.glob("case-*_graph_*.h5"):
            os.truncate(path, 1000)
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 0)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})

    def lose(self, spoil):
        """Spoils the finished case's fragment while the other case runs; only that one is lost, and it runs again."""
        config = self.write_config()
        process = self.start("run", config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="slow:1",
                             BENCH_TEST_CASE="*_graph_*")
        spoil(self.wait_for(lambda: list(self.partial.glob("case-*_eager_*.h5")))[0])
        result = self.finish(process)
        self.expect(result, 6, "_eager_tp2_bf16: its fragment is missing or damaged", "1 of 2", "--resume")
        self.assertEqual([("_graph_" in case_id, status) for case_id, (status, _) in self.cases().items()],
                         [(True, "ok")])
        self.assertIn("_graph_", result.out)
        self.assertFalse(self.is_complete())
        result = self.expect(self.bench("run", config, "-o", self.file, "--resume"), 0)
        self.assertIn("_eager_tp2_bf16: begins", result.err)
        self.assertNotIn("_graph_tp2_bf16: begins", result.err)
        self.assertEqual([status for status, _ in self.cases().values()], ["ok", "ok"])
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())

    def test_a_finished_case_whose_fragment_is_damaged_is_never_passed_over(self):
        self.lose(lambda path: os.truncate(path, 1000))

    def test_a_finished_case_whose_fragment_is_missing_is_never_passed_over(self):
        self.lose(os.unlink)

    def test_a_run_that_only_lacks_its_merge_is_ok_without_a_case_run(self):
        config = self.write_config()
        process = self.start("run", config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="slow:1")
        self.wait_for(lambda: list(self.partial.glob("case-*_eager_*.h5")))
        self.file.mkdir()  # the merged file cannot take its place
        self.expect(self.finish(process), 6, str(self.file), "--resume")
        self.file.rmdir()
        result = self.expect(self.bench("run", config, "-o", self.file, "--resume"), 0, "ok: 2 of 2 cases ran")
        self.assertNotIn("begins", result.err)
        self.assertTrue(self.is_complete())

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

"""Exit codes of the command line itself, one test a code, and what is printed with them. (Codes of runs that go wrong:
test_faults_process, test_interrupt, test_bad_input.)"""
import re
import subprocess
import unittest

import drive


class ExitCodes(drive.BenchTest):
    def test_0_help_of_everything(self):
        top = self.expect(self.bench("--help"), 0, "usage: bench")
        self.expect(self.bench("help"), 0, "usage: bench")
        self.expect(self.bench("-h"), 0, "usage: bench")
        self.assertNotIn("worker", top.out)
        for command in ("run", "plan", "show", "plot", "export", "fetch", "list", "doctor", "test"):
            with self.subTest(command):
                self.assertIn(f"\n  {command}", top.out)
                a = self.expect(self.bench(command, "--help"), 0, f"bench {command}")
                b = self.expect(self.bench("help", command), 0)
                self.assertEqual(a.out, b.out)
                self.assertEqual(a.err, "")

    def test_help_and_readme_name_the_same_codes(self):
        told = re.findall(r"^ +(\d+)  (.+)$", self.bench("--help").out.split("exit codes:\n")[1], re.M)
        table = (drive.source / "README.md").read_text().split("| exit code | meaning |\n|---|---|\n")[1]
        written = re.findall(r"^\| (\d+) \| (.+) \|$", table.split("\n\n")[0], re.M)
        self.assertEqual(told, written)
        self.assertEqual([code for code, _ in told], ["0", "2", "3", "4", "5", "6", "130"])
        page = self.expect(self.bench("describe", "man"), 0).out.split(".SH EXIT STATUS\n")[1].split(".SH ")[0]
        for code, text in told:
            self.assertIn(code, page)

    def test_0_version(self):
        self.assertRegex(self.expect(self.bench("--version"), 0).out, r"^bench \d+\.\d+\.\d+\n$")

    def test_0_run_1_has_no_command_yet(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file), 0)

    def test_2_usage(self):
        self.expect(self.bench(), 2, "usage: bench")
        self.expect(self.bench("rnu"), 2, "did you mean 'run'")
        self.expect(self.bench("help", "shwo"), 2, "did you mean 'show'")
        self.expect(self.bench("run"), 2, "CONFIG")
        self.expect(self.bench("run", "--quite", "x.ini"), 2, "did you mean --quiet")
        self.expect(self.bench("run", "a.ini", "b.ini"), 2, "b.ini")

    def test_3_output_mismatch_names_case_and_token(self):
        result = self.bench("run", self.write_config(), "-o", self.file, program=drive.faulty,
                            BENCH_TEST_FAULT="drop:1", BENCH_TEST_CASE="*_eager_*")
        self.expect(result, 3, "_eager_", "check")
        self.assertTrue(self.is_complete())

    def test_3_outranks_5(self):
        config = self.write_config(engine__max_num_batched_tokens="256, 512")
        self.expect(self.bench("run", config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="drop:1",
                               BENCH_TEST_CASE="*_c256_eager_*"), 3)
        self.assertIn("ok", {status for status, _ in self.cases().values()})

    def test_5_a_case_that_crashed(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, program=drive.faulty,
                               BENCH_TEST_FAULT="abort:0"), 5)

    def test_6_no_such_configuration(self):
        self.expect(self.bench("run", self.folder / "none.ini"), 6, "bench run: ", "none.ini")

    def test_6_stdout_is_full(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([str(drive.bench), "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 6)
        self.assertIn("No space left", done.stderr)

    def test_5_nothing_ran(self):
        config = self.write_config(run__time_budget="1s", run__coverage="full", prompt__source="needle:64k")
        result = self.bench("run", config, "-o", self.file)
        self.expect(result, 5, "nothing ran: 2 cases skipped; the first: ", "time")
        self.assertNotIn("ok:", result.out)
        self.assertEqual({status for status, _ in self.cases().values()}, {"skipped"})
        self.assertFalse(self.partial.exists())  # its decisions stand: there is nothing to resume

    def test_0_some_ran_and_the_rest_is_counted(self):
        config = self.write_config(run__time_budget="20s", run__coverage="full", prompt__source="needle:1k, needle:1m",
                                   engine__enforce_eager="true", engine__max_num_batched_tokens="4096")
        result = self.bench("run", config, "-o", self.file)
        self.expect(result, 0, "ok: 1 of 2 cases ran", ", 1 skipped: ")
        self.assertEqual(sorted(status for status, _ in self.cases().values()), ["ok", "skipped"])


if __name__ == "__main__":
    unittest.main()

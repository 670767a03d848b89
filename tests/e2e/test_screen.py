"""What people get to read: `bench run` and `bench show` on screens of some width, of runs that went well and of others."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unittest
from pathlib import Path

import drive


class Screen(drive.BenchTest):
    def show(self, *args, **env):
        return self.expect(self.bench("show", self.file, *args, **env), 0).out

    def checks(self, case):
        """check -> (verdict, detail) as `bench show --case` prints them."""
        table = self.show("--case", case, COLUMNS="200").split("\nchecks\n")[1].split("\n\n")[0]
        found = {}
        for line in table.splitlines()[1:]:
            match = re.match(r"  (\w+) +(not checked|ok|FAILED) +\S+ +\S+ *(.*)$", line)
            self.assertTrue(match, line)
            found[match[1]] = (match[2], match[3])
        self.assertEqual(len(found), 7)
        return found

    def expect_reasons(self, case, words):
        for name, (verdict, detail) in self.checks(case).items():
            if verdict == "not checked":
                self.assertIn(words.get(name, words.get("*", "?")), detail, name)
            else:
                self.assertNotIn(name, words)

    def test_a_sampled_case_says_of_each_check_why_it_did_not_run(self):
        config = self.write_config(run__coverage="sample:3", prompt__source="needle:2k")
        self.expect(self.bench("run", config, "-o", self.file), 0, "output not checked (2 cases): sampled coverage",
                    "invariance not checked (2 cases): sampled coverage")
        case = next(iter(self.cases()))
        self.expect_reasons(case, {name: "sampled coverage" for name in
                                   ("tokens", "logits", "finite", "count", "invariance")})
        text = self.show("--case", case)
        self.assertIn("none: sampled coverage produces no answer", text)
        self.assertNotIn("xxh64", text)

    def test_what_is_switched_off_is_called_so(self):
        config = self.write_config(check__invariance="false", check__truth="false", check__spot="0")
        self.expect(self.bench("run", config, "-o", self.file), 0, "switched off: [check] truth = false")
        self.expect_reasons(next(iter(self.cases())), {
            "tokens": "[check] truth = false", "logits": "[check] truth = false", "spot": "[check] spot = 0",
            "invariance": "[check] invariance = false"})

    def test_a_single_case_has_nothing_to_agree_with(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--only", "*_graph_*"), 0,
                    "invariance not checked (1 case): no other case")

    def test_a_crashed_case_says_of_each_check_that_it_did_not_end(self):
        self.bench("run", self.write_config(), "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="abort:1",
                   BENCH_TEST_CASE="*_eager_*")
        eager, graph = (next(case for case in self.cases() if mode in case) for mode in ("_eager_", "_graph_"))
        self.expect_reasons(eager, {name: "did not run to its end" for name in (
            "tokens", "logits", "spot", "finite", "count", "memory", "invariance")})
        self.expect_reasons(graph, {"invariance": "no other case that ran in full"})

    def test_where_the_time_went_is_told_or_how_to_be_told(self):
        for values, words in (({"run__warmup": "1"}, "where the time went (the whole prompt in the last warm-up pass;"),
                              ({"run__spans": "all"}, "where the time went (the whole prompt after the repeats;"),
                              ({"run__warmup": "1", "engine__max_num_batched_tokens": "100"},
                               "where the time went (chunks 1, 4, 6, 9, 11 of 11 in the last warm-up pass;"),
                              ({}, "not recorded: there was no warm-up pass")):
            with self.subTest(values):
                self.expect(self.bench("run", self.write_config(**values), "-o", self.file, "--force"), 0)
                text = self.show("--case", next(iter(self.cases())))
                self.assertIn(words, text)
                self.assertEqual("run.spans=all" in text, not values)
                self.assertEqual("of ceiling" in text, bool(values))

    def on_terminal(self, width, *args, code=0, **more):
        """What a program prints on a terminal of that width, all streams together."""
        here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        env = {k: v for k, v in self.environment().items() if k not in ("COLUMNS", "NO_COLOR", "TERM")} | more
        process = subprocess.Popen([str(drive.bench), *map(str, args)], stdin=there, stdout=there, stderr=there,
                                   env=env, cwd=self.folder, start_new_session=True)
        os.close(there)
        text = b""
        while True:
            try:
                more = os.read(here, 65536)
            except OSError:  # the other end is closed
                more = b""
            if not more:
                break
            text += more
        os.close(here)
        self.assertEqual(process.wait(60), code, text)
        return text.decode()

    def table(self, text):
        """Lines of the table, without colour."""
        lines = re.sub(r"\x1b\[[0-9;]*[mK]", "", text).replace("\r", "").splitlines()
        begin = next(i for i, line in enumerate(lines) if line.startswith("case "))
        end = next(i for i, line in enumerate(lines) if i > begin and line.startswith("TTFT:"))
        return lines[begin:end]

    def test_the_table_fits_terminals_and_pipes(self):
        config = self.write_config(run__repeats="2")
        for width in (80, 120):
            with self.subTest(terminal=width):
                text = self.on_terminal(width, "run", config, "-o", self.file, "--force")
                self.assertIn("\x1b[32mok\x1b[0m", text)
                self.assertIn("ETA ", text)
                self.assertLessEqual(max(map(len, self.table(text))), width)
                self.assertLessEqual(max(map(len, self.table(self.on_terminal(width, "show", self.file)))), width)
        for env, most in (({}, 100), ({"COLUMNS": "80"}, 80), ({"COLUMNS": "nonsense"}, 100)):
            with self.subTest(env):
                table = self.table(self.show(**{"COLUMNS": "", **env}))
                self.assertLessEqual(max(map(len, table)), most)
        wide = self.table(self.show(COLUMNS="200"))
        for word in ("mode", "spread", "decode", "of plan", "peak/rank"):
            self.assertIn(word, wide[0])
        self.assertNotIn("no room", self.show(COLUMNS="200"))
        self.assertIn("no room for: decode", self.show(COLUMNS="80"))
        for text in (self.show(COLUMNS="200"), self.show(COLUMNS="80")):
            self.assertIn("where its time went: bench show FILE --case ID\n", text)
            self.assertEqual("of plan:" in text, "time/mem" in text)  # only what is there is explained

    def test_a_dumb_terminal_gets_plain_lines(self):
        config = self.write_config()
        text = self.on_terminal(100, "run", config, "-o", self.file, TERM="dumb")
        self.assertIn("begins, predicted ", text)
        for args in (("plan", config), ("show", self.file), ("doctor",), ("fetch",),
                     ("trace", self.file, "--case", next(iter(self.cases())))):
            with self.subTest(args):
                code = 4 if args[0] == "trace" else 0
                text += self.on_terminal(100, *args, code=code, TERM="dumb")
        self.assertNotIn("\x1b", text)
        self.assertNotIn("\r[", text)

    def test_a_crashed_case_shows_what_is_known_of_it(self):
        result = self.bench("run", self.write_config(run__repeats="2", run__warmup="2"), "-o", self.file,
                            program=drive.faulty, BENCH_TEST_FAULT="abort:1", BENCH_TEST_CASE="*_eager_*")
        self.expect(result, 5, "after chunk 1 of 4 of warm-up 1: ")
        text = self.show("--case", next(case for case in self.cases() if "_eager_" in case))
        for words in ("needle:1k, 1,024 tokens\n", "4 chunks of 256 tokens, eager, TP 2 on 1 device, cpu, bfloat16",
                      "attention auto, linear auto"):
            self.assertIn(words, text)
        self.assertRegex(text, r"predicted  prefill [\d.]+ m?s, memory [\d.]+ MiB\n")
        self.assertNotIn(" -,", text)

    def test_a_worker_has_a_name_in_ps(self):
        process = self.start("run", self.write_config(), "-o", self.file, program=drive.faulty,
                             BENCH_TEST_FAULT="slow:1")
        children = f"/proc/{process.pid}/task/{process.pid}/children"

        def read(path):
            try:
                return Path(path).read_text()
            except OSError:  # it is gone
                return ""
        self.wait_for(lambda: any(read(f"/proc/{child}/comm") == "bench worker\n"
                                  for child in read(children).split()))
        self.expect(self.finish(process), 0)


if __name__ == "__main__":
    unittest.main()

"""What people get to read: `bench run` and `bench show` on screens of some width, of runs that went well and of others."""
import re
import unittest

import drive


class Screen(drive.BenchTest):
    def show(self, *args, **env):
        return self.expect(self.bench("show", self.file, *args, **env), 0).out

    def checks(self, case):
        """check -> (verdict, detail) as `bench show --case` prints them."""
        table = self.show("--case", case).split("\nchecks\n")[1].split("\n\n")[0]
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


if __name__ == "__main__":
    unittest.main()

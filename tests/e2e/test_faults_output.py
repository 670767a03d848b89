"""A program whose arithmetic is broken ends with exit code 3 and names case and check: each fault is seen by the checks
that should see it, in the case that has it and in no other."""
import unittest

import h5py

import drive

# fault -> checks of the broken case that must fail; `tokens` may, too: the codes bear a lot
faults = {
    "zero_rank:1": {"logits"},
    "swap_ranks:0,1": {"logits", "spot"},
    "shift_position:2": {"logits", "spot"},
    "wrong_rotation": {"logits", "spot"},
    "key_rotation": {"logits", "spot"},
    "window:64": {"logits", "spot"},
    "gqa_map": {"logits", "spot"},
    "lost_keys:1": {"logits", "spot"},
    "nan_logits": {"logits", "finite"},
    "drop:1": {"count"},
}


class FaultsInTheOutput(drive.BenchTest):
    def verdicts(self):
        """case -> check -> verdict"""
        with h5py.File(self.file, "r") as f:
            return {case: dict(zip(map(drive.text, group["outputs/checks/name"][:]),
                                   map(drive.text, group["outputs/checks/verdict"][:])))
                    for case, group in f["case"].items()}

    def test_every_fault_fails_its_checks_in_its_case_alone(self):
        config = self.write_config(check__spot=12)
        for fault, failing in faults.items():
            with self.subTest(fault):
                result = self.bench("run", config, "-o", self.file, "--force", program=drive.faulty,
                                    BENCH_TEST_FAULT=fault, BENCH_TEST_CASE="*_eager_*")
                self.expect(result, 3, "_eager_", f"{sorted(failing)[0]} check FAILED")
                self.assertRegex(result.err, r"_eager_\S*: FAILED in \S+ \S+: \w+ check: ")
                self.assertNotRegex(result.err, r"_eager_\S*: ok in")
                self.assertRegex(result.err, r"_graph_\S*: ok in")
                for case, checks in self.verdicts().items():
                    broken = "_eager_" in case
                    failed = {name for name, verdict in checks.items() if verdict == "FAILED"} - {"invariance"}
                    expected = failing | (failed & {"tokens"}) if broken else set()
                    self.assertEqual(failed, expected, (fault, case, checks))

    def test_an_answer_that_is_not_known_is_never_called_ok(self):
        # the spot check sees attention alone: a rank that gives nothing to the sums passes it
        config = self.write_config(model__path="random:nano", prompt__source="random:1k", sampling__max_tokens=2,
                                   engine__enforce_eager="true")
        result = self.expect(self.bench("run", config, "-o", self.file, program=drive.faulty,
                                        BENCH_TEST_FAULT="zero_rank:1"), 0,
                             "0 with the right answer, 1 right at the spots checked, 0 not checked",
                             "spot ok: attention recomputed at sampled rows; the answer itself is not known")
        with h5py.File(self.file, "r") as f:
            self.assertEqual([drive.text(row["output_check"]) for row in f["cases"]], ["spot ok"], repr(result))

    def test_a_part_of_the_answer_is_not_called_ok(self):
        config = self.write_config(sampling__max_tokens=3)
        self.expect(self.bench("run", config, "-o", self.file), 0, "0 with the right answer, 2 right at the spots")
        with h5py.File(self.file, "r") as f:
            for group in f["case"].values():
                details = dict(zip(map(drive.text, group["outputs/checks/name"][:]),
                                   map(drive.text, group["outputs/checks/detail"][:])))
                self.assertRegex(details["tokens"], r"^only 3 of \d+ answer tokens were generated: max_tokens = 3$")

    def test_the_root_of_several_failures_is_named_first(self):
        result = self.bench("run", self.write_config(), "-o", self.file, "--quiet", program=drive.faulty,
                            BENCH_TEST_FAULT="nan_logits")
        self.expect(result, 3, "finite check: ")

    def test_without_a_fault_the_same_program_passes(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, program=drive.faulty), 0)
        for checks in self.verdicts().values():
            self.assertEqual(set(checks.values()), {"ok"})


if __name__ == "__main__":
    unittest.main()

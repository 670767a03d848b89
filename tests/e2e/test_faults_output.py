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
                for case, checks in self.verdicts().items():
                    broken = "_eager_" in case
                    failed = {name for name, verdict in checks.items() if verdict == "FAILED"} - {"invariance"}
                    expected = failing | (failed & {"tokens"}) if broken else set()
                    self.assertEqual(failed, expected, (fault, case, checks))

    def test_without_a_fault_the_same_program_passes(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, program=drive.faulty), 0)
        for checks in self.verdicts().values():
            self.assertEqual(set(checks.values()), {"ok"})


if __name__ == "__main__":
    unittest.main()

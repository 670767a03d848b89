"""Keys that are rotated wrongly, on random weights: nobody knows the answer there, so the spot check, and it alone, must
see it, say that it was a key, and where."""
import unittest

import h5py

import drive

nano = "random:nano"
dual = "random:3x128x8x4x64x160x256/dual:128:64:256"


class FaultsInTheKeys(drive.BenchTest):
    def run_case(self, model, code, *words, **env):
        config = self.write_config(model__path=model, engine__dual_chunk_attention=str(model == dual).lower(),
                                   engine__enforce_eager="true", prompt__source="random:1000",
                                   sampling__max_tokens=2, check__spot=8)
        self.expect(self.bench("run", config, "-o", self.file, "--force", program=drive.faulty, **env), code, *words)
        with h5py.File(self.file, "r") as f:
            [case] = f["case"].values()
            names, verdicts, details = (list(map(drive.text, case[f"outputs/checks/{column}"][:]))
                                        for column in ("name", "verdict", "detail"))
        failed = {name for name, verdict in zip(names, verdicts) if verdict == "FAILED"}
        spot = names.index("spot")
        return failed, verdicts[spot], details[spot]

    def test_wrong_keys_fail_the_spot_check_alone(self):
        for model, fault in ((nano, "key_rotation"), (dual, "key_rotation"), (dual, "key_phase")):
            with self.subTest(model=model, fault=fault):
                failed, _, detail = self.run_case(model, 3, "spot check FAILED", BENCH_TEST_FAULT=fault)
                self.assertEqual(failed, {"spot"})
                self.assertRegex(detail, r"^key of layer \d, head \d+ \(kv head \d+\), token \d+, element \d+: expected")

    def test_right_keys_pass(self):
        for model, fault in ((nano, None), (dual, None), (nano, "key_phase")):  # nano has one phase alone
            with self.subTest(model=model, fault=fault):
                failed, verdict, _ = self.run_case(model, 0, **({"BENCH_TEST_FAULT": fault} if fault else {}))
                self.assertEqual((failed, verdict), (set(), "ok"))


if __name__ == "__main__":
    unittest.main()

"""bench kernels: rates of ops alone, as a table and as JSON; bad requests are refused before anything runs."""
import json
import unittest

import drive

QUICK = ("--warmup", "0", "--seconds", "0.05")


class Kernels(drive.BenchTest):
    def test_a_shape_gives_a_row_with_its_rates(self):
        result = self.bench("kernels", "--op", "attention", "--shape", "T=64,N=512,H=4,K=2,D=64", "--json", *QUICK)
        self.assertEqual(result.code, 0, repr(result))
        found = json.loads(result.out)
        self.assertEqual((found["schema"], found["schema_version"]), ("chunkbench kernels", 1))
        (row,) = found["kernels"]
        self.assertEqual((row["op"], row["shape"]), ("attention", "T=64,N=512,H=4,K=2,D=64"))
        # 64 rows at the end of 512 keys: row i sees 449 + i of them; 4 FLOP a head, pair and element
        flops = 4 * 4 * 64 * sum(449 + i for i in range(64))
        self.assertAlmostEqual(row["flops_per_s"] * row["median_s"] / flops, 1, delta=0.05)
        self.assertLessEqual(row["min_s"], row["median_s"])
        self.assertTrue(row["min_s"] <= row["mean_s"] <= row["max_s"], row)
        self.assertGreater(found["product_flops_per_s"], 0)

    def test_the_table_names_every_op_that_was_asked_for(self):
        result = self.bench("kernels", "--op", "swiglu", "--kernel", "ref", *QUICK)
        self.assertEqual(result.code, 2, repr(result))
        result = self.bench("kernels", "--op", "linear", "--kernel", "ref", "--shape", "M=4,N=32,K=32", *QUICK)
        self.assertEqual(result.code, 0, repr(result))
        self.assertRegex(result.out, r"linear +ref +M=4,N=32,K=32")
        self.assertIn("TFLOP/s", result.out)

    def test_sums_over_devices_have_rates_by_both_formulas(self):
        for devices, dtype, size in ((2, "bfloat16", 2), (3, "float32", 4)):
            result = self.bench("kernels", "--op", "exchange", "--devices", devices, "--dtype", dtype, "--json",
                                "--shape", "T=65,C=256", "--shape", "T=1,C=8", *QUICK)
            self.assertEqual(result.code, 0, repr(result))
            found = json.loads(result.out)
            self.assertEqual(found["devices"], devices)
            sizes = {"T=65,C=256": 65 * 256, "T=1,C=8": 8}
            self.assertEqual([(row["kernel"], row["shape"]) for row in found["sums"]],
                             [(kernel, shape) for kernel in ("ref", "shared") for shape in sizes])
            for row in found["sums"]:
                elements = sizes[row["shape"]]
                self.assertEqual((row["in_rank_order"], row["wrong"]), (True, 0))
                self.assertEqual(row["bytes"], elements * size)
                self.assertAlmostEqual(row["algbw_bytes_per_s"] * row["median_s"] / row["bytes"], 1)
                self.assertAlmostEqual(row["busbw_bytes_per_s"] / row["algbw_bytes_per_s"],
                                       2 * (devices - 1) / devices)
                self.assertLessEqual(row["min_s"], row["median_s"])

    def test_a_table_of_sums_and_what_cannot_be(self):
        result = self.bench("kernels", "--op", "exchange", "--shape", "T=4,C=32", *QUICK)
        self.assertEqual(result.code, 0, repr(result))
        self.assertIn("sums over 2 devices", result.out)
        self.assertRegex(result.out, r"ref +by rank +T=4,C=32 ")
        for arguments, code, expected in ((("--devices", "1"), 2, "2 to 8"), (("--shape", "T=4"), 2, "one like T=8192,C=3584"),
                                          (("--kernel", "nccl"), 2, "not a kernel of this kind of device")):
            result = self.bench("kernels", "--op", "exchange", *arguments, *QUICK)
            self.assertEqual(result.code, code, repr(result))
            self.assertIn(expected, result.err)
            self.assertEqual(result.out, "")
        result = self.bench("kernels", "--op", "linear", "--devices", "2", *QUICK)
        self.assertEqual((result.code, "--op exchange" in result.err), (2, True))

    def test_what_cannot_be_is_refused(self):
        for arguments, expected in ((("--op", "softmax"), "an op that has a benchmark"),
                                    (("--shape", "T=1"), "--op beside it"),
                                    (("--op", "linear", "--shape", "M=1"), "one like M="),
                                    (("--device", "tpu"), "cpu or cuda"), (("--seconds", "-1"), "seconds")):
            result = self.bench("kernels", *arguments)
            self.assertEqual(result.code, 2, repr(result))
            self.assertIn(expected, result.err)
            self.assertEqual(result.out, "")


if __name__ == "__main__":
    unittest.main()

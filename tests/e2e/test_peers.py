#!/usr/bin/env python3
"""tests/gpu/peers.py without a GPU: FLOP of a shape by counting pairs, who counts as the best peer, ratios of means, what is
measured for longer, and what is told where something is missing."""
import json
import math
import os
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
import peers  # noqa: E402

SHAPE = "T=3,N=7,H=2,K=1,D=64"


def figure(rate, **more):
    return {"flops_per_s": rate * 1e12, "sm_clock_mhz": 1500, "power_w": 690, "joules_per_flop": 690 / (rate * 1e12), **more}


def cells(row):
    return [cell.strip() for cell in peers.row_of(row).strip("|").split("|")]


class Table(unittest.TestCase):
    def test_flop_of_pairs_that_are_executed(self):
        pairs = sum(4 + row + 1 for row in range(3))  # row r sees the 4 keys before the chunk, those of it up to its own
        self.assertEqual(peers.flops_of({"T": 3, "N": 7, "H": 2, "D": 64}), 4 * 2 * 64 * pairs)

    def test_the_ratio_is_of_the_mean_of_ours_to_the_fastest_way_of_any_peer(self):
        row = {"shape": SHAPE, "before": figure(690), "after": figure(710), "fa4 whole": figure(600), "fa4 rows": figure(650),
               "fa4 per kv head": figure(640), "cudnn whole": figure(500), "cudnn rows": figure(560)}
        self.assertEqual(cells(row), [SHAPE, "690.0, 710.0", "1,500, 1,500", "690, 690", "1.000, 0.972", "600.0", "650.0", "640.0",
                                      "560.0", "1,500", "690", "1.062", "1.077"])
        row["cudnn whole"] = figure(1400)
        self.assertEqual((cells(row)[8], cells(row)[-1]), ("1400.0", "0.500"))

    def test_as_many_columns_as_the_head_has(self):
        self.assertEqual(len(cells({"shape": SHAPE, "before": None, "after": None})), peers.HEAD.count("|") - 1)

    def test_what_is_missing_is_no_figure(self):
        row = cells({"shape": SHAPE, "before": None, "after": figure(700, power_w=None), "fa4 whole": figure(350)})
        self.assertEqual((row[1], row[2], row[3], row[6], row[-1]), ("-, 700.0", "-, 1,500", "-, nan", "-", "2.000"))
        self.assertEqual(cells({"shape": SHAPE, "before": figure(700), "after": None})[-1], "nan")

    def test_a_look_is_marked(self):
        row = {"shape": SHAPE, "before": figure(700), "after": figure(700), "fa4 whole": figure(640),
               "cudnn whole": figure(500, look=True)}
        self.assertEqual(cells(row)[8], "~500.0")

    def test_every_usual_shape_is_one_that_the_program_reads(self):
        for text in peers.SHAPES:
            s = dict(part.split("=") for part in text.split(","))
            self.assertEqual(list(s), ["T", "N", "H", "K", "D"])
            self.assertTrue(int(s["T"]) <= int(s["N"]) and int(s["H"]) % int(s["K"]) == 0)
        self.assertEqual(len(set(peers.SHAPES)), 12)
        self.assertTrue(set(peers.SUSTAINED) < set(peers.SHAPES))


class Measuring(unittest.TestCase):
    """With a measure() that says what it was asked for."""

    def setUp(self):
        self.rates, self.asked, self.kept = {}, [], peers.measure

        def measure(_torch, _clocks, run, _flops, warmup, seconds):
            self.asked.append((run, warmup, seconds))
            return figure(self.rates[run])
        peers.measure = measure

    def tearDown(self):
        peers.measure = self.kept

    def one(self, rate, best):
        self.rates["way"] = rate
        return peers.look_or_measure(None, None, "way", 1, best * 1e12, 3.5, 7)

    def test_the_first_way_is_measured_at_once(self):
        self.assertNotIn("look", self.one(500, 0))
        self.assertEqual(self.asked, [("way", 3.5, 7)])

    def test_one_that_is_near_the_best_is_measured_for_as_long(self):
        self.assertNotIn("look", self.one(451, 500))
        self.assertEqual(self.asked, [("way", *peers.LOOK), ("way", 3.5, 7)])

    def test_one_that_is_far_behind_is_looked_at_alone(self):
        self.assertTrue(self.one(449, 500)["look"])
        self.assertEqual(self.asked, [("way", *peers.LOOK)])


class Ours(unittest.TestCase):
    """With a program that prints what it is told to."""

    def ask(self, text, code=0):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "bench"
            program.write_text(f"#!/bin/sh\necho \"$@\" > {folder}/arguments\ncat <<'END'\n{text}\nEND\nexit {code}\n")
            program.chmod(0o755)
            with open(os.devnull, "w", encoding="utf-8") as nowhere:
                kept, sys.stderr = sys.stderr, nowhere
                try:
                    found = peers.ours(str(program), SHAPE, {"T": 3, "N": 7, "H": 2, "D": 64}, 0.5, 2)
                finally:
                    sys.stderr = kept
            return found, (Path(folder) / "arguments").read_text().split()

    def test_its_rate_is_of_all_runs(self):
        flops = peers.flops_of({"T": 3, "N": 7, "H": 2, "D": 64})
        kernel = {"mean_s": 2.0, "median_s": 1.0, "flops_per_s": flops / 1.0}
        found, arguments = self.ask(json.dumps({"kernels": [kernel], "product_flops_per_s": 7e14}))
        self.assertTrue(math.isclose(found["flops_per_s"], flops / 2))
        self.assertEqual((found["median_flops_per_s"], found["product_flops_per_s"]), (flops, 7e14))
        self.assertEqual(arguments[arguments.index("--shape") + 1], SHAPE)
        self.assertEqual(arguments[arguments.index("--seconds") + 1], "2")

    def test_a_program_that_fails_or_has_none_is_no_figure(self):
        self.assertIsNone(self.ask("", 5)[0])
        self.assertIsNone(self.ask('{"kernels": []}')[0])


if __name__ == "__main__":
    unittest.main()

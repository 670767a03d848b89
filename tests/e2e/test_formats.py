"""A result for other programs: comma-separated values, JSON by its schema, llama-bench's JSON, and the snippets of the
README. The numbers are those of the file, as h5py reads them."""
import copy
import csv
import io
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import drive
import h5py
import json_schema
import numpy as np

try:
    import pandas
except ImportError:
    pandas = None
needs_pandas = unittest.skipUnless(pandas, "pandas is not installed (package python3-pandas)")

SCHEMA = json.loads((drive.source / "docs" / "show.schema.json").read_text())

# Fields that llama-bench prints and llama.cpp's compare-llama-bench.py takes, with the types of its table.
LLAMA_BENCH = {
    **dict.fromkeys("build_commit cpu_info gpu_info backends model_filename model_type cpu_mask type_k type_v split_mode "
                    "tensor_split tensor_buft_overrides test_time".split(), "TEXT"),
    **dict.fromkeys("build_number model_size model_n_params n_batch n_ubatch n_threads cpu_strict poll n_gpu_layers "
                    "main_gpu no_kv_offload flash_attn use_mmap embeddings no_op_offload n_prompt n_gen n_depth avg_ns "
                    "stddev_ns".split(), "INTEGER"),
    **dict.fromkeys(("avg_ts", "stddev_ts"), "REAL"),
}
# What it joins two builds on.
KEYS = ("cpu_info gpu_info backends n_gpu_layers tensor_buft_overrides model_filename model_type n_batch n_ubatch "
        "embeddings cpu_mask cpu_strict poll n_threads type_k type_v use_mmap no_kv_offload split_mode main_gpu "
        "tensor_split flash_attn n_prompt n_gen n_depth").split()


class Formats(drive.BenchTest):
    @classmethod
    def setUpClass(cls):
        """Two cases measured twice, one in full and checked; a second file with the same cases sampled; a third in which
        one of them crashed before its first chunk was through."""
        cls.kept = Path(tempfile.mkdtemp(prefix="bench-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.kept, ignore_errors=True)
        cls.path, cls.sampled, cls.crashed = (cls.kept / f"{name}.h5" for name in ("run", "sampled", "crashed"))
        runner = drive.BenchTest()
        runner.folder = cls.kept
        config = runner.write_config(run__repeats="2")
        broken = {"program": drive.faulty, "BENCH_TEST_FAULT": "abort:0", "BENCH_TEST_CASE": "*_eager_*"}
        for path, code, words, more in ((cls.path, 0, [], {}), (cls.crashed, 5, [], broken),
                                        (cls.sampled, 0, ["--set", "run.coverage=sample:3"], {})):
            result = runner.bench("run", config, "-o", path, "--quiet", *words, **more)
            if result.code != code:
                raise AssertionError(f"the run ended otherwise: {result!r}")

    def setUp(self):
        super().setUp()
        self.h5 = h5py.File(self.path, "r")
        self.addCleanup(self.h5.close)
        self.groups = [self.h5["case"][drive.text(i)] for i in self.h5["cases"]["id"]]

    def show(self, *args, path=None):
        return self.expect(self.bench("show", path or self.path, *args), 0).out

    # ---- comma-separated values

    def test_csv_has_a_line_per_case_and_the_numbers_of_the_file(self):
        rows = list(csv.DictReader(io.StringIO(self.show("--csv"))))
        self.assertEqual([row["id"] for row in rows], [drive.text(g.attrs["id"]) for g in self.groups])
        for row, group in zip(rows, self.groups):
            for name in ("prompt_tokens", "chunk_tokens", "tp", "ttft_median_ns", "ttft_min_ns", "ttft_max_ns",
                         "peak_rank_bytes", "peak_device_bytes", "peak_driver_bytes", "unaccounted_bytes"):
                self.assertEqual(int(row[name]), group.attrs[name], name)
            for name in ("prefill_tok_s", "decode_tok_s", "predicted_prefill_s"):
                self.assertAlmostEqual(float(row[name]) / group.attrs[name], 1, places=6, msg=name)
            self.assertEqual((row["status"], row["output_check"], row["ttft_estimated"]), ("ok", "ok", "0"))
            self.assertEqual((row["energy_j"], row["reason"]), ("", ""), "what is not known is empty")

    def test_csv_of_a_case_has_a_line_per_chunk(self):
        for group in self.groups:
            text = self.show("--csv", "--case", drive.text(group.attrs["id"]))
            rows = list(csv.DictReader(io.StringIO(text)))
            chunks = group["chunks"]
            self.assertEqual(len(rows), len(chunks["chunk"]))
            for name in ("repeat", "chunk", "start_token", "n_tokens", "begin_ns", "latency_ns", "host_ns", "flops",
                         "bytes"):
                self.assertEqual([int(row[name]) for row in rows], list(chunks[name][:]), name)

    def test_columns_of_numbers_carry_their_unit(self):
        plain = {"tp", "devices", "repeats_measured", "ttft_estimated", "ttft_relative_error", "repeat", "chunk",
                 "replayed", "exchange_overlap"}
        units = re.compile(r"(_ns|_s|_tokens|_token|_bytes|_j|^flops|^bytes)$")
        case = drive.text(self.groups[0].attrs["id"])
        for args in (["--csv"], ["--csv", "--case", case]):
            for row in csv.DictReader(io.StringIO(self.show(*args))):
                for name, value in row.items():
                    if re.fullmatch(r"-?[\d.e+]+", value) and name not in plain:
                        self.assertRegex(name, units)

    def test_text_with_commas_quotes_and_lines_stays_in_its_cell(self):
        path = self.folder / "copy.h5"
        shutil.copy(self.path, path)
        reason = 'a "reason", with\nlines'
        with h5py.File(path, "r+") as f:
            place = next(iter(f["case"].values()))["status"].attrs.get_id("reason")
            place.write(np.array(reason.encode(), dtype=place.dtype))
        text = self.show("--csv", path=path)
        self.assertEqual(len(text.splitlines()), 1 + len(self.groups))
        self.assertIn(reason.replace("\n", " "), [row["reason"] for row in csv.DictReader(io.StringIO(text))])

    def test_an_estimate_is_marked_in_csv(self):
        for row in csv.DictReader(io.StringIO(self.show("--csv", path=self.sampled))):
            self.assertEqual((row["coverage"], row["ttft_estimated"], row["output_check"]),
                             ("sampled", "1", "not checked"))
            self.assertTrue(row["ttft_relative_error"])

    def test_csv_excludes_json(self):
        self.expect(self.bench("show", self.path, "--csv", "--json"), 2, "--csv")
        self.expect(self.bench("show", self.folder / "none.h5", "--csv"), 6, "No such file")

    # ---- JSON

    def test_json_is_as_its_schema_says(self):
        for path in (self.path, self.sampled):
            document = json.loads(self.show("--json", path=path))
            self.assertEqual(json_schema.check(document, SCHEMA), [])
            self.assertEqual(len(document["cases"]), len(self.groups))
            case = document["cases"][0]["id"]
            rows = json.loads(self.show("--json", "--case", case, path=path))
            self.assertEqual(json_schema.check(rows, SCHEMA), [])
            self.assertTrue(rows["cases"][0]["chunks"])

    def test_the_schema_refuses_what_is_not_so(self):
        good = json.loads(self.show("--json"))
        for change in (lambda d: d.pop("run"), lambda d: d.update(schema_version=2),
                       lambda d: d["cases"][0].update(status="fine"), lambda d: d["cases"][0].update(tp="2"),
                       lambda d: d["cases"][0]["ttft"].update(median_s=1), lambda d: d.update(complete=1),
                       lambda d: d["run"].update(created_utc="today")):
            bad = copy.deepcopy(good)
            change(bad)
            self.assertEqual(len(json_schema.findings(bad, SCHEMA, SCHEMA)), 1)

    # ---- llama-bench

    def export(self, path=None):
        return json.loads(self.expect(self.bench("export", path or self.path, "--llama-bench"), 0).out)

    def test_export_has_what_readers_of_llama_bench_ask_for(self):
        """As llama.cpp's compare-llama-bench.py takes it in: fields by type into a table, joined on the keys."""
        entries = self.export()
        self.assertEqual(len(entries), 2 * len(self.groups), "a prompt and a generation of each case")
        table = sqlite3.connect(":memory:")
        table.execute(f"CREATE TABLE t({', '.join(f'{name} {kind}' for name, kind in LLAMA_BENCH.items())})")
        for entry in entries:
            self.assertEqual(set(LLAMA_BENCH) - set(entry), set())
            for name, kind in LLAMA_BENCH.items():
                types = {"TEXT": str, "INTEGER": (int, bool), "REAL": (int, float)}[kind]
                self.assertIsInstance(entry[name], types, name)
            table.execute(f"INSERT INTO t VALUES({', '.join('?' * len(LLAMA_BENCH))})",
                          [entry[name] for name in LLAMA_BENCH])
        keys = ", ".join(KEYS)
        self.assertEqual(table.execute(f"SELECT COUNT(*) FROM (SELECT DISTINCT {keys} FROM t)").fetchone()[0],
                         len(entries), "no two entries are taken for one")

    def test_export_has_the_numbers_of_the_file(self):
        entries = iter(self.export())
        for group in self.groups:
            chunks, decode = group["chunks"], group["decode"]
            prompt, generation = next(entries), next(entries)
            tokens = int(group.attrs["prompt_tokens"])
            sums = [int(chunks["latency_ns"][:][chunks["repeat"][:] == r].sum()) for r in range(2)]
            self.assertEqual((prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"]), (tokens, 0, 0))
            self.assertEqual(prompt["n_batch"], group.attrs["max_num_batched_tokens"])
            self.assertEqual(prompt["samples_ns"], sums)
            self.assertAlmostEqual(prompt["avg_ns"], statistics.mean(sums), delta=1)
            self.assertAlmostEqual(prompt["stddev_ns"], statistics.stdev(sums), delta=1)
            rates = [tokens * 1e9 / ns for ns in sums]
            self.assertAlmostEqual(prompt["avg_ts"], statistics.mean(rates), places=3)
            self.assertAlmostEqual(prompt["stddev_ts"], statistics.stdev(rates), places=3)
            np.testing.assert_allclose(prompt["samples_ts"], rates)
            steps = decode["step"][:] > 0
            self.assertEqual((generation["n_prompt"], generation["n_depth"]), (0, tokens))
            self.assertEqual(generation["n_gen"], decode["step"][:].max())
            self.assertEqual(generation["samples_ns"],
                             [int(decode["latency_ns"][:][steps & (decode["repeat"][:] == r)].sum()) for r in range(2)])
            self.assertEqual((prompt["model_filename"], prompt["type_k"], prompt["tensor_split"]),
                             ("needle", "bf16", "1.00/1.00"))
            self.assertIn(drive.text(group.attrs["mode"]), prompt["model_type"])
            self.assertGreater(prompt["model_n_params"], 100000)
            self.assertGreater(prompt["model_size"], 100000)
            self.assertEqual(prompt["build_commit"], drive.text(self.h5["run"].attrs["git_commit"])[:8])

    def test_export_leaves_estimates_out_and_says_so(self):
        result = self.expect(self.bench("export", self.sampled, "--llama-bench"), 4, "its time is an estimate")
        self.assertEqual(json.loads(result.out), [])

    def test_export_leaves_wrong_outputs_out(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--quiet", program=drive.faulty,
                               BENCH_TEST_FAULT="drop:1", BENCH_TEST_CASE="*_eager_*"), 3)
        result = self.expect(self.bench("export", self.file, "--llama-bench"), 0, "its output is wrong")
        self.assertEqual({"graph" in entry["model_type"] for entry in json.loads(result.out)}, {True})

    def test_export_wants_a_format_and_a_file(self):
        self.expect(self.bench("export", self.path), 2, "--llama-bench")
        self.expect(self.bench("export", self.folder / "none.h5", "--llama-bench"), 6, "No such file")

    # ---- the README

    def snippets(self):
        section = (drive.source / "README.md").read_text().split("## Reading a result", 1)[1].split("\n## ", 1)[0]
        return re.findall(r"```python\n(.*?)```", section, re.S)

    def run_snippet(self, code, result=None):
        shutil.copy(result or self.path, self.folder / "run.h5")
        path = f"{drive.build}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run([sys.executable, "-c", code], cwd=self.folder, capture_output=True, text=True,
                              env=self.environment(PATH=path), timeout=120)
        self.assertEqual(done.returncode, 0, code + done.stderr)
        return done.stdout

    def test_the_snippets_are_the_ones_that_are_run_here(self):
        found = self.snippets()
        self.assertEqual(["pandas" in code for code in found], [False, True])

    def test_the_h5py_snippet_prints_a_line_per_case(self):
        lines = self.run_snippet(self.snippets()[0]).splitlines()
        self.assertEqual(len(lines), len(self.groups))
        for line, group in zip(lines, self.groups):
            self.assertIn(drive.text(group.attrs["id"]), line)

    def test_the_h5py_snippet_prints_a_case_that_did_not_run(self):
        lines = self.run_snippet(self.snippets()[0], self.crashed).splitlines()
        self.assertEqual(len(lines), len(self.groups))
        self.assertEqual([("_eager_" in line, "crashed" in line) for line in lines if "no chunk ran" in line],
                         [(True, True)])

    @needs_pandas
    def test_the_pandas_snippet_gives_no_speed_to_a_case_that_did_not_run(self):
        out = self.run_snippet(self.snippets()[1], self.crashed)
        self.assertRegex(out, r"mode +graph\n")
        for group in self.groups:
            self.assertIn(drive.text(group.attrs["id"]), out)

    @needs_pandas
    def test_the_pandas_snippet_prints_tables(self):
        out = self.run_snippet(self.snippets()[1])
        for group in self.groups:
            self.assertIn(drive.text(group.attrs["id"]), out)
        self.assertIn("ttft_median_ns", out)
        median = np.median(self.groups[0]["chunks"]["latency_ns"][:]) / 1e6
        printed = re.search(drive.text(self.groups[0].attrs["id"]) + r" +([\d.]+)", out).group(1)
        self.assertAlmostEqual(float(printed), median, delta=1e-4 * median)


if __name__ == "__main__":
    unittest.main()

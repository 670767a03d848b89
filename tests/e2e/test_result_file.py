"""The result file as its readers see it: h5py alone, none of our code. Groups, columns, units, row counts, and sums
that must agree with each other. Then what `bench show` makes of the same file, and of files that are none."""
import csv
import io
import json
import os
import shutil
import tempfile
import unittest
from pathlib import Path

import drive
import h5py
import numpy as np

REPEATS = 2
CATEGORIES = ["weights", "kv", "activations", "workspace", "comm", "graph", "other"]
COLUMNS = {  # group: {column: unit}
    "chunks": {"repeat": "1", "chunk": "1", "start_token": "tokens", "n_tokens": "tokens", "begin_ns": "ns",
               "latency_ns": "ns", "host_ns": "ns", "flops": "flop", "bytes": "bytes"},
    "memory": {"repeat": "1", "chunk": "1", "rank": "1", "driver_before": "bytes", "driver_after": "bytes",
               "driver_high_water": "bytes", "unaccounted": "bytes",
               **{name: "bytes" for name in CATEGORIES}, **{f"{name}_high_water": "bytes" for name in CATEGORIES}},
    "decode": {"repeat": "1", "step": "1", "token_id": "1", "latency_ns": "ns", "logprob": "nat"},
    "spans": {"rank": "1", "repeat": "1", "chunk": "1", "layer": "1", "op_id": "1", "begin_ns": "ns", "end_ns": "ns",
              "flops": "flop", "bytes": "bytes", "device": "1"},
    "ttft": {"repeat": "1", "ttft_ns": "ns"},
    "predicted_memory": {"rank": "1", **{name: "bytes" for name in CATEGORIES}},
}
text = drive.text


class ResultFile(drive.BenchTest):
    @classmethod
    def setUpClass(cls):
        """One run of the smoke configuration, measured twice and with spans."""
        cls.kept = Path(tempfile.mkdtemp(prefix="bench-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.kept, ignore_errors=True)
        cls.path = cls.kept / "smoke.h5"
        runner = drive.BenchTest()
        runner.folder = cls.kept
        result = runner.bench("run", drive.source / "configs" / "smoke.ini", "-o", cls.path, "--set",
                              f"run.repeats={REPEATS}", "--set", "run.spans=all", "--quiet")
        if result.code != 0:
            raise AssertionError(f"the run failed: {result!r}")

    def setUp(self):
        super().setUp()
        self.h5 = h5py.File(self.path, "r")
        self.addCleanup(self.h5.close)
        self.groups = list(self.h5["case"].values())

    def test_the_root_says_what_the_file_is(self):
        attrs = self.h5.attrs
        self.assertEqual(text(attrs["schema"]), "chunkbench")
        self.assertEqual((attrs["schema_version"], attrs["complete"]), (1, 1))
        self.assertRegex(text(attrs["created_utc"]), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertTrue(text(attrs["tool_version"]))

    def test_the_run_says_where_and_how(self):
        run = self.h5["run"]
        self.assertIn("smoke.ini", text(run["argv"][()]))
        self.assertIn("[prompt]", text(run["config"][()]))
        for name in ("config_sha256", "binary_sha256"):
            self.assertRegex(text(run.attrs[name]), r"^[0-9a-f]{64}$")
        for name in ("host", "cpu_model", "cpu_isa", "kernel", "governor", "git_commit", "device_name"):
            self.assertTrue(text(run.attrs[name]), name)
        self.assertIn("HDF5 1.", text(run.attrs["libraries"]))
        self.assertEqual(run.attrs["cores"], len(os.sched_getaffinity(0)))
        for name in ("measured_linear_flops", "measured_attention_flops", "measured_copy_bytes_per_s",
                     "measured_roof_flops", "memory_bytes", "realtime_ns", "monotonic_ns"):
            self.assertGreater(run.attrs[name], 0, name)

    def test_every_case_has_the_ceilings_of_its_own_kernels(self):
        """A sweep over kernels records for each what a run of that kernel alone is planned with."""
        config = self.write_config(engine__enforce_eager="true", engine__attention_backend="auto, ref")
        rates, path, own = {}, self.folder / "kernels.h5", {"XDG_CACHE_HOME": str(self.folder)}
        for kernel in ("auto", "ref"):
            plan = json.loads(self.bench("plan", config, "--json", "--set", f"engine.attention_backend={kernel}",
                                         **own).out)
            rates[kernel] = plan["cases"][0]["rates"]
            self.assertEqual(rates[kernel]["attention_flops"], plan["rates"]["attention_flops"])
        self.expect(self.bench("plan", config, **own), 0, "rates of bfloat16, attention auto,",
                    "rates of bfloat16, attention ref,")
        self.expect(self.bench("run", config, "-o", path, **own), 0, "bfloat16, attention ref: linear ")
        self.assertNotEqual(rates["auto"]["attention_flops"], rates["ref"]["attention_flops"])
        shown = {c["id"]: c["ceilings"] for c in json.loads(self.bench("show", path, "--json").out)["cases"]}
        with h5py.File(path) as f:
            self.assertEqual(f["run"].attrs["measured_attention_flops"], rates["auto"]["attention_flops"])
            for name, group in f["case"].items():
                mine = rates["ref" if name.endswith("_ref") else "auto"]
                for key in ("linear_flops", "attention_flops", "roof_flops", "op_overhead_ns"):
                    self.assertEqual(group.attrs[f"measured_{key}"], mine[key])
                self.assertEqual(group.attrs["measured_copy_bytes_per_s"], mine["copy_bytes"])
                self.assertEqual(shown[name]["attention_flops"], mine["attention_flops"])
                self.assertEqual(shown[name]["roof_flops"], mine["roof_flops"])

    def test_a_file_without_ceilings_of_its_cases_shows_those_of_the_run(self):
        path = self.folder / "older.h5"
        shutil.copy(self.path, path)
        with h5py.File(path, "r+") as f:
            run = {name: value for name, value in f["run"].attrs.items() if name.startswith("measured_")}
            for group in f["case"].values():
                for name in run:
                    del group.attrs[name]
        for case in json.loads(self.expect(self.bench("show", path, "--json"), 0).out)["cases"]:
            self.assertEqual(case["ceilings"]["roof_flops"], run["measured_roof_flops"])

    def test_the_table_of_cases_has_a_row_for_each_and_agrees_with_their_attributes(self):
        table = self.h5["cases"][:]
        self.assertEqual(len(table), 8)
        self.assertEqual({text(i) for i in table["id"]}, set(self.h5["case"]))
        for row in table:
            attrs = self.h5["case"][text(row["id"])].attrs
            for name in table.dtype.names:
                same = row[name] == attrs[name] or (row[name] != row[name] and attrs[name] != attrs[name])
                self.assertTrue(same, (name, row[name], attrs[name]))
            self.assertEqual(text(row["status"]), "ok")
            self.assertEqual((text(row["output_check"]), text(row["invariance_check"])), ("ok", "ok"))
            self.assertLess(attrs["predicted_prefill_s"], 600)

    def test_every_column_has_its_unit_and_the_rows_of_its_table(self):
        for group in self.groups:
            for name, columns in COLUMNS.items():
                table = group[name]
                for column, unit in columns.items():
                    data = table[column]
                    self.assertEqual(text(data.attrs["units"]), unit, f"{name}/{column}")
                    self.assertTrue(text(data.attrs["description"]))
                    self.assertEqual(data.shape, (table.attrs["rows"],), f"{name}/{column}")
                    if data.shape[0]:
                        self.assertEqual((data.compression, data.compression_opts, data.shuffle), ("gzip", 1, True))

    def test_a_run_on_the_cpu_has_no_clocks_of_a_gpu(self):
        for group in self.groups:
            self.assertNotIn("clocks", group)
            self.assertTrue(np.isnan(group.attrs["energy_j_per_token"]))

    def test_chunks_cover_the_prompt_once_in_each_repeat(self):
        for group in self.groups:
            chunks, tokens = group["chunks"], group.attrs["prompt_tokens"]
            self.assertEqual(group.attrs["chunk_tokens"], min(tokens, group.attrs["max_num_batched_tokens"]))
            self.assertIn(f"_c{group.attrs['max_num_batched_tokens']}_", text(group.attrs["id"]))
            per_repeat = -(-tokens // group.attrs["chunk_tokens"])
            self.assertEqual(chunks.attrs["rows"], REPEATS * per_repeat)
            for repeat in range(REPEATS):
                mine = chunks["repeat"][:] == repeat
                start, n = chunks["start_token"][:][mine], chunks["n_tokens"][:][mine]
                self.assertEqual(list(chunks["chunk"][:][mine]), list(range(per_repeat)))
                self.assertEqual(list(start), [0, *np.cumsum(n)[:-1]])
                self.assertEqual(n.sum(), tokens)
            self.assertTrue((chunks["latency_ns"][:] > 0).all())
            self.assertTrue((chunks["flops"][:] > 0).all())
            self.assertTrue((np.diff(chunks["begin_ns"][:]) > 0).all())
            devices = chunks["device_latency_ns"][:]
            self.assertEqual(devices.shape, (len(chunks["chunk"]), group.attrs["devices"]))
            self.assertTrue((devices.max(axis=1) <= chunks["latency_ns"][:]).all())

    def test_the_time_to_the_first_token_is_the_sum_of_its_parts(self):
        for group in self.groups:
            chunks, decode, ttft = group["chunks"], group["decode"], group["ttft"]["ttft_ns"][:]
            self.assertEqual(len(ttft), REPEATS)
            for repeat in range(REPEATS):
                parts = chunks["latency_ns"][:][chunks["repeat"][:] == repeat].sum()
                first = (decode["repeat"][:] == repeat) & (decode["step"][:] == 0)
                parts += decode["latency_ns"][:][first].sum()
                self.assertEqual(ttft[repeat], parts)
            attrs = group.attrs
            self.assertEqual((attrs["ttft_min_ns"], attrs["ttft_max_ns"]), (ttft.min(), ttft.max()))
            self.assertAlmostEqual(attrs["ttft_median_ns"], np.median(ttft), delta=1)
            self.assertAlmostEqual(attrs["prefill_tok_s"], attrs["prompt_tokens"] * 1e9 / np.median(ttft), places=1)
            self.assertEqual(attrs["ttft_estimated"], 0)

    def test_memory_adds_up_and_the_rest_is_named(self):
        for group in self.groups:
            memory, ranks = group["memory"], group.attrs["tp"]
            rows = group["chunks"].attrs["rows"] * (ranks + 1)
            self.assertEqual(memory.attrs["rows"], rows)
            rank = memory["rank"][:]
            self.assertEqual(sorted(set(rank)), [-1, *range(ranks)])
            used = sum(memory[name][:] for name in CATEGORIES)
            peaks = sum(memory[f"{name}_high_water"][:] for name in CATEGORIES)
            self.assertTrue((peaks >= used).all())
            key = memory["repeat"][:] * 10000 + memory["chunk"][:]
            for k in set(key):
                mine = key == k
                expected = memory["driver_after"][:][mine] - used[mine].sum()
                self.assertTrue((memory["unaccounted"][:][mine] == expected).all())
            for name in ("weights", "kv", "activations"):
                self.assertTrue((memory[name][:][rank >= 0] > 0).all(), name)
            self.assertTrue((memory["driver_high_water"][:] >= memory["driver_after"][:].min()).all())
            own = max(peaks[rank == r].max() for r in range(ranks))
            self.assertEqual(group.attrs["peak_rank_bytes"], own + -(-peaks[rank == -1].max() // ranks))

    def test_predictions_stand_beside_measurements(self):
        for group in self.groups:
            predicted = group["predicted_memory"]
            self.assertEqual(list(predicted["rank"]), [*range(group.attrs["tp"]), -1])
            total = sum(predicted[name][:].sum() for name in CATEGORIES)
            self.assertEqual(predicted.attrs["total_bytes"], total)
            self.assertEqual(group.attrs["predicted_total_bytes"], total)
            self.assertGreater(group.attrs["predicted_prefill_s"], 0)

    def test_outputs_hold_the_answer_and_what_was_checked(self):
        hashes = set()
        for group in self.groups:
            outputs, decode = group["outputs"], group["decode"]
            ids = outputs["token_ids"][:]
            self.assertEqual(list(ids), list(outputs["expected_ids"][:]))
            self.assertEqual(list(ids), list(decode["token_id"][:][decode["repeat"][:] == 0]))
            self.assertTrue(text(outputs["text"][()]))
            self.assertEqual(len(outputs["top"]["id"]), 20)
            self.assertEqual(outputs["top"]["id"][0], ids[0])
            self.assertTrue((np.diff(outputs["top"]["logprob"][:]) <= 0).all())
            checks = dict(zip(map(text, outputs["checks"]["name"][:]), map(text, outputs["checks"]["verdict"][:])))
            self.assertEqual(checks, dict.fromkeys(["tokens", "logits", "spot", "finite", "count", "memory",
                                                     "invariance"], "ok"))
            hashes.add((int(group.attrs["tp"]), int(outputs.attrs["logits_xxh64"])))
        self.assertEqual(len(hashes), 2, "one hash of logits for each degree of tensor parallelism")

    def test_spans_lie_within_the_chunks_that_they_are_of(self):
        for group in self.groups:
            spans, traced, chunks = group["spans"], group["spans"]["chunks"], group["chunks"]
            first = chunks["repeat"][:] == 0
            for name in ("chunk", "start_token", "n_tokens"):
                self.assertEqual(list(traced[name]), list(chunks[name][:][first]), name)
            self.assertEqual(set(traced["repeat"]), {REPEATS})
            for i, (begin, latency) in enumerate(zip(traced["begin_ns"], traced["latency_ns"])):
                mine = spans["chunk"][:] == traced["chunk"][i]
                for work in ("flops", "bytes"):
                    self.assertEqual(spans[work][:][mine].sum(), traced[work][i])
                self.assertGreaterEqual(spans["begin_ns"][:][mine].min(), begin)
                self.assertLessEqual(spans["end_ns"][:][mine].max(), begin + latency)

    def test_spans_come_from_a_repeat_of_their_own_and_name_their_ops(self):
        for group in self.groups:
            spans, ops = group["spans"], group["spans"]["ops"]
            self.assertGreater(spans.attrs["rows"], 0)
            self.assertEqual(spans.attrs["dropped_records"], 0)
            self.assertEqual(set(spans["repeat"][:]), {REPEATS})
            self.assertTrue((spans["end_ns"][:] >= spans["begin_ns"][:]).all())
            self.assertEqual(list(ops["op_id"]), list(range(ops.attrs["rows"])))
            self.assertEqual(set(spans["op_id"][:]), set(ops["op_id"][:]))
            names = set(map(text, ops["op"][:]))
            self.assertLessEqual({"attention", "linear", "rope_cache"}, names)
            self.assertNotIn("unknown", set(map(text, ops["variant"][:])))
            per_chunk = np.bincount(spans["chunk"][:], weights=spans["flops"][:].astype(float))
            executed = group["chunks"]["flops"][:][group["chunks"]["repeat"][:] == 0]
            np.testing.assert_allclose(per_chunk[:-1], executed[:-1], rtol=1e-9)

    def test_the_status_of_every_case_stands_in_its_group(self):
        for group in self.groups:
            status = group["status"]
            self.assertEqual(text(status.attrs["status"]), "ok")
            self.assertEqual(status.attrs["exit_signal"], 0)
            self.assertIn("stderr_tail", status)
            self.assertEqual(group.attrs["step_allocations"], 0)

    # ---- bench show on the same file ----

    def test_show_prints_each_case_and_no_escapes_into_a_pipe(self):
        result = self.expect(self.bench("show", self.path), 0, "TTFT", *self.h5["case"])
        self.assertNotIn("\033", result.out)

    def test_show_json_agrees_with_the_file(self):
        shown = json.loads(self.bench("show", self.path, "--json").out)
        self.assertEqual((shown["schema"], shown["schema_version"]), ("chunkbench-show", 1))
        self.assertEqual(len(shown["cases"]), len(self.groups))
        for case in shown["cases"]:
            attrs = self.h5["case"][case["id"]].attrs
            self.assertEqual(case["ttft"]["median_ns"], attrs["ttft_median_ns"])
            self.assertEqual(case["memory"]["peak_rank_bytes"], attrs["peak_rank_bytes"])
            self.assertEqual(case["output_check"], "ok")

    def test_show_case_has_its_sections(self):
        case = next(iter(self.h5["case"]))
        self.expect(self.bench("show", self.path, "--case", case), 0, "chunks", "memory", "not accounted for", "decode",
                    "checks", "where the time went")
        rows = json.loads(self.bench("show", self.path, "--case", case, "--json").out)["cases"][0]["chunks"]
        self.assertEqual(len(rows), self.h5["case"][case]["chunks"].attrs["rows"])

    def test_show_refuses_what_it_does_not_know(self):
        case = next(iter(self.h5["case"]))
        self.expect(self.bench("show", self.path, "--case", case + "x"), 2, "no case", case)
        self.expect(self.bench("show", self.folder / "none.h5"), 6, "No such file")
        self.expect(self.bench("show", self.folder), 6, "not a regular file")
        self.expect(self.bench("show", drive.source / "configs" / "smoke.ini"), 6, "HDF5")

    def test_show_refuses_damaged_and_newer_files(self):
        copy = self.folder / "copy.h5"
        whole = self.path.read_bytes()
        copy.write_bytes(whole[: len(whole) // 2])
        self.expect(self.bench("show", copy), 6, "truncated")
        copy.write_bytes(whole)
        with h5py.File(copy, "r+") as f:
            f.attrs["schema_version"] = 2
        self.expect(self.bench("show", copy), 6, "schema version is 2", "version 1")
        copy.write_bytes(whole)
        with h5py.File(copy, "r+") as f:
            group = next(iter(f["case"].values()))
            del group["chunks"]["latency_ns"]
            group["chunks"]["latency_ns"] = h5py.ExternalLink("/etc/passwd", "/x")
        self.expect(self.bench("show", copy), 6, "not a hard link")

    def test_a_file_from_before_an_attribute_was_added_is_read(self):
        copy = self.folder / self.path.name
        shutil.copy(self.path, copy)
        case = next(iter(self.h5["case"]))

        def shown():
            texts = [self.bench("show", copy, *args).out for args in ([], ["--json"], ["--csv"], ["--case", case])]
            self.assertTrue(all(texts))
            return texts
        before = shown()
        with h5py.File(copy, "r+") as f:
            for group in f["case"].values():
                for name in ("max_num_batched_tokens", "energy_j", "energy_j_per_token", "sm_clock_mean_mhz",
                             "power_mean_w", "graph_upload_ns"):
                    del group.attrs[name]
                group.attrs["added_later"] = "by a newer program"
        self.assertEqual(shown(), before)
        with h5py.File(copy, "r+") as f:
            del f["case"][case].attrs["tp"]
        self.expect(self.bench("show", copy), 6, "cannot find attribute tp")

    def test_a_value_of_a_newer_program_is_named(self):
        copy = self.folder / "copy.h5"
        shutil.copy(self.path, copy)
        with h5py.File(copy, "r+") as f:
            next(iter(f["case"].values())).attrs.create("coverage", "every other", dtype=h5py.string_dtype("utf-8", 16))
        self.expect(self.bench("show", copy), 6, 'cannot read coverage: "every other"', "newer")

    def test_an_unfinished_run_is_shown_as_such(self):
        copy = self.folder / "copy.h5"
        shutil.copy(self.path, copy)
        with h5py.File(copy, "r+") as f:
            f.attrs["complete"] = 0
        self.expect(self.bench("show", copy), 0, "INCOMPLETE")

    def test_ranks_on_two_devices(self):
        config = self.write_config(engine__tensor_parallel_size=2)
        self.expect(self.bench("run", config, "-o", self.file, "--set", "engine.devices=2", "--set", "engine.isa=avx2"), 0)
        with h5py.File(self.file) as f:
            for group in f["case"].values():
                self.assertEqual(group.attrs["devices"], 2)
                self.assertEqual(text(group.attrs["exchange"]), "ref")
                self.assertIn("not avx512_bf16: ", text(group.attrs["attention_note"]))  # but avx2
                self.assertEqual(group["chunks"]["device_latency_ns"].shape[1], 2)
        self.expect(self.bench("show", self.file), 0, "TP 2 on 2 devices")
        for case in json.loads(self.bench("show", self.file, "--json").out)["cases"]:
            self.assertEqual((case["devices"], case["exchange"]), (2, "ref"))
            self.assertIn("not avx512_bf16: ", case["attention_note"])

    def test_whether_exchanges_ran_beside_other_ops(self):
        config = self.write_config(engine__tensor_parallel_size=2, engine__devices=2, engine__block_rows=40)
        hashes = set()
        for asked, does in (("true", 1), ("auto", 0)):  # on a CPU
            self.expect(self.bench("run", config, "-o", self.file, "--set", f"engine.exchange_overlap={asked}"), 0)
            with h5py.File(self.file) as f:
                self.assertEqual({group.attrs["exchange_overlap"] for group in f["case"].values()}, {does})
                hashes |= {int(group["outputs"].attrs["logits_xxh64"]) for group in f["case"].values()}
            for case in json.loads(self.bench("show", self.file, "--json").out)["cases"]:
                self.assertIs(case["exchange_overlap"], bool(does))
            rows = list(csv.DictReader(io.StringIO(self.bench("show", self.file, "--csv").out)))
            self.assertEqual({row["exchange_overlap"] for row in rows}, {str(does)})
            self.file.unlink()
        self.assertEqual(len(hashes), 1)

    def test_a_file_of_before_exchanges_and_devices_is_read(self):
        """What was added later is not there: an op between devices, and of which device a span is."""
        self.expect(self.bench("run", self.write_config(), "-o", self.file), 0)
        shown = self.bench("show", self.file)
        with h5py.File(self.file, "r+") as f:
            del f["run"].attrs["kernel_exchange"]
            for group in f["case"].values():
                del group.attrs["exchange_overlap"]
                if "spans" in group and "device" in group["spans"]:
                    del group["spans"]["device"]
        again = self.bench("show", self.file)
        self.expect(again, 0)
        self.assertEqual(again.out, shown.out)


if __name__ == "__main__":
    unittest.main()

"""bench plan and bench list: what they print, as table and as JSON, and how they end."""
import json
import re
import time
import unittest
from pathlib import Path

import drive


class Plan(drive.BenchTest):
    def plan(self, *args, **values):
        return self.bench("plan", self.write_config(**values), *args)

    def document(self, *args, **values):
        return json.loads(self.expect(self.plan("--json", *args, **values), 0).out)

    def test_every_case_has_a_row_with_prediction_and_coverage(self):
        result = self.expect(self.plan(), 0, "2 cases in 1 launch: 2 full", "rates measured")
        for case in ("needle-1k_c256_eager_tp2_bf16", "needle-1k_c256_graph_tp2_bf16"):
            row = next(line for line in result.out.splitlines() if line.startswith(case))
            self.assertIn("1,024", row)
            self.assertTrue(row.rstrip().endswith("full"), row)
        self.assertNotIn("\033", result.out)

    def test_verbose_adds_up_by_category(self):
        self.expect(self.plan("--verbose"), 0, "memory of needle-1k_c256_eager_tp2_bf16", "rank 1", "weights", "shared")
        for case in self.document()["cases"]:
            memory = case["predicted_memory"]
            parts = sum(sum(rank.values()) for rank in memory["rank_bytes"]) + sum(memory["shared_bytes"].values())
            self.assertEqual(parts, memory["total_bytes"])
            self.assertEqual(len(memory["rank_bytes"]), 2)
            self.assertGreater(memory["available_bytes"], memory["total_bytes"])

    def test_json_is_the_whole_plan(self):
        plan = self.document()
        self.assertEqual((plan["schema"], plan["schema_version"]), ("chunkbench plan", 1))
        self.assertEqual([case["mode"] for case in plan["cases"]], ["eager", "graph"])
        for case in plan["cases"]:
            self.assertEqual((case["prompt_tokens"], case["chunk_tokens"], case["chunks"]), (1024, 256, 4))
            self.assertGreater(case["predicted_total_s"], case["predicted_prefill_s"])
        self.assertAlmostEqual(plan["predicted_total_s"],
                               plan["predicted_load_s"] + sum(c["predicted_total_s"] for c in plan["cases"]), 9)
        self.assertGreater(plan["rates"]["linear_flops"], 1e8)

    def test_a_budget_samples_then_skips_with_the_arithmetic(self):
        budget_s = 120 if drive.sanitized else 2
        sweep = {"prompt__source": "needle:1k, needle:512k", "run__time_budget": f"{budget_s}s"}
        plan = self.document(**sweep)
        coverage = {case["id"]: case["coverage"] for case in plan["cases"]}
        self.assertEqual(coverage["needle-1k_c256_eager_tp2_bf16"], "full")
        long = [case for case in plan["cases"] if case["prompt"] == "needle:512k"]
        for case in long:
            self.assertIn(case["coverage"], ("sampled", "skipped"))
            self.assertIn("are left", case["reason"])
        self.assertLessEqual(plan["predicted_total_s"], budget_s)

    def test_a_budget_holds_even_where_the_predictions_are_wrong(self):
        """Rates far too high: the plan promises everything, and the run ends in time all the same. What the
        first case leaves may be enough for one repeat of the next, not for two cases more."""
        cache = Path(self.folder) / "cache"
        prompt, budget = ("needle:1k", "20s") if drive.sanitized else ("needle:8k", "8s")
        ini = self.write_config(prompt__source=prompt, run__repeats="200", run__time_budget=budget,
                                run__coverage="full", engine__max_num_batched_tokens="256, 512")
        self.expect(self.bench("plan", ini, XDG_CACHE_HOME=str(cache)), 0)
        for rates in cache.rglob("rates-*.json"):
            document = json.loads(rates.read_text())
            for key in ("linear_flops", "attention_flops", "copy_bytes", "roof_flops"):
                document[key] *= 1e4
            document["op_overhead_ns"] /= 1e4
            rates.write_text(json.dumps(document))
        self.expect(self.bench("plan", ini, XDG_CACHE_HOME=str(cache)), 0, "4 full")
        begin = time.monotonic()
        result = self.expect(self.bench("run", ini, "-o", "run.h5", XDG_CACHE_HOME=str(cache)), 0,
                             "for time_budget allowed no more", "time: ")
        self.assertRegex(result.out, r"[1-3] of 4 cases ran.*, [1-3] skipped")
        self.assertLess(time.monotonic() - begin, 60)
        self.assertRegex(result.err, r"time: \d+ of 200 repeats")

    def test_rates_are_kept_and_measured_anew_on_demand(self):
        self.expect(self.plan(), 0)
        self.expect(self.plan(), 0, "rates measured before")
        self.expect(self.plan("--measure"), 0, "rates measured now")
        self.expect(self.plan(), 0, "rates measured before")

    def test_overrides_apply(self):
        plan = self.document("--set", "engine.max_num_batched_tokens=1000", "--set=engine.enforce_eager=false")
        self.assertEqual([case["id"] for case in plan["cases"]], ["needle-1k_c1000_graph_tp2_bf16"])

    def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error_each_with_the_reason(self):
        reason = r"(no NVIDIA driver on this machine|this program was built without CUDA|CUDA_VISIBLE_DEVICES)"
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        config = self.write_config(engine__device="auto")
        plan = self.expect(self.bench("plan", config, **hidden), 0)
        self.assertRegex(plan.out, "note: device = auto is the CPU: .*" + reason)
        for command in ("plan", "run"):
            result = self.expect(self.bench(command, config, "--set", "engine.device=cuda", **hidden), 2)
            self.assertRegex(result.err, "found cuda, expected cpu or auto: .*" + reason)

    def test_nothing_is_left_behind(self):
        before = {path.name for path in self.folder.iterdir()}
        self.expect(self.plan(), 0)
        self.assertEqual({path.name for path in self.folder.iterdir()} - before, {"small.ini"})

    def test_ends(self):
        self.expect(self.bench("plan", "--help"), 0, "usage: bench plan")
        self.expect(self.bench("plan"), 2)
        self.expect(self.bench("plan", "a.ini", "b.ini"), 2)
        self.expect(self.bench("plan", "a.ini", "--nonsense"), 2, "--nonsense")
        self.expect(self.bench("plan", "no-such.ini"), 6, "no-such.ini", "No such file")
        self.expect(self.plan(engine__tensor_parallel_size="three"), 2, "small.ini:", '"three"')
        self.expect(self.plan(prompt__source="file:none.txt"), 6, "small.ini:", "none.txt")

    def test_shipped_configurations_plan(self):
        for name in ("smoke", "quickstart", "sweep_chunks", "qwen2.5-7b-1m"):
            self.expect(self.bench("plan", drive.source / "configs" / f"{name}.ini"), 0, "Predicted time")

    def test_the_reference_run_needs_the_memory_that_it_names(self):
        path = drive.source / "configs" / "qwen2.5-7b-1m.ini"
        named = re.search(r"about (\d+) GiB of memory, with 1m tokens (\d+)", path.read_text()).groups()
        for source, gib in zip(("random:600k", "random:1m"), named):
            result = self.expect(self.bench("plan", path, "--json", "--set", "engine.device=cpu", "--set",
                                            f"prompt.source={source}"), 0)
            case, = json.loads(result.out)["cases"]
            self.assertEqual(round(case["predicted_memory"]["total_bytes"] / 2**30), int(gib))


class List(drive.BenchTest):
    def test_models(self):
        self.expect(self.bench("list", "models"), 0, "needle", "random:qwen2.5-7b-1m", "random:nano",
                    "not read by this version")

    def test_kernels_say_what_is_usable_and_why_not(self):
        result = self.expect(self.bench("list", "kernels"), 0, "attention", "linear", "all_reduce")
        for line in result.out.splitlines()[2:]:
            self.assertRegex(line, r" (yes|no: \S.*)$")

    def test_options_are_the_reference_page(self):
        page = (drive.source / "docs" / "OPTIONS.md").read_text()
        self.assertEqual(self.expect(self.bench("list", "options", "--markdown"), 0).out, page)
        self.expect(self.bench("list", "options"), 0, "[engine]", "max_num_batched_tokens = 8192")

    def test_configs_show_their_questions(self):
        self.expect(self.bench("list", "configs"), 0, "quickstart.ini", "sweep_chunks.ini", "?")

    def test_ends(self):
        self.expect(self.bench("list", "--help"), 0, "usage: bench list")
        self.expect(self.bench("list"), 2)
        self.expect(self.bench("list", "nonsense"), 2, "nonsense")
        self.expect(self.bench("list", "models", "--markdown"), 2)


if __name__ == "__main__":
    unittest.main()

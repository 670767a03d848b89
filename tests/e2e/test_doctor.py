"""bench doctor: says what is usable, in words and as JSON, and its exit code tells whether a run can work."""
import json
import unittest

import drive


class Doctor(drive.BenchTest):
    def doctor(self, *args, **env):
        result = self.bench("doctor", *args, **env)
        self.assertEqual(result.code, 0, repr(result))
        return result

    def findings(self, **env):
        found = json.loads(self.doctor("--json", **env).out)
        self.assertEqual((found["schema"], found["schema_version"]), ("chunkbench-doctor", 1))
        return found, {f["name"]: f for f in found["findings"]}

    def test_a_machine_that_can_run_tests_is_usable(self):
        found, by_name = self.findings()
        self.assertTrue(found["usable"])
        self.assertNotIn("problem", {f["level"] for f in found["findings"]})
        self.assertRegex(by_name["counters"]["text"], "perf_event_open works|no hardware counters|not permitted|perf events")
        for name in ("processor", "governor", "memory", "results", "libraries", "GPU", "kernels", "engine", "cache"):
            self.assertIn(name, by_name)
        self.assertIn("FLOP/s", by_name["engine"]["text"])

    def test_every_kernel_is_listed_and_says_why_it_cannot_run(self):
        found, _ = self.findings()
        self.assertTrue(any(k["name"] == "ref" and k["usable"] for k in found["kernels"]))
        for kernel in found["kernels"]:
            self.assertEqual(kernel["usable"], kernel["why_not"] is None, kernel)

    def test_the_text_is_plain_in_a_pipe(self):
        result = self.doctor()
        self.assertIn("`bench run` can work here", result.out)
        self.assertIn("built in", result.out)
        self.assertNotIn("\033", result.out)

    def test_gpus_are_told_of_with_the_reason_why_they_cannot_be_used(self):
        found, by_name = self.findings()
        built = any(kernel["device"] == "cuda" for kernel in found["kernels"])
        self.assertEqual("not built in" not in by_name["GPU"]["text"], built)
        self.assertEqual(found["gpu_usable"], built and any(gpu["visible"] for gpu in found["gpus"]))
        if not found["gpus"]:
            self.assertIsNone(found["driver"])
            self.assertIn("no NVIDIA driver on this machine (libnvidia-ml.so.1 is not there)", by_name["GPU"]["text"])
        if built and not found["gpus"]:
            self.assertIn("install the NVIDIA driver", by_name["GPU"]["fix"])
            for library in ("libcuda", "cuBLASLt", "cuDNN", "NCCL", "CUPTI"):
                self.assertTrue(by_name[library]["text"])
            self.assertEqual({kernel["why_not"] for kernel in found["kernels"] if kernel["device"] == "cuda"},
                             {"no NVIDIA driver on this machine (libnvidia-ml.so.1 is not there)"})

    def test_hidden_gpus_do_not_count(self):
        found, by_name = self.findings(CUDA_VISIBLE_DEVICES="")
        self.assertFalse(found["gpu_usable"])
        if found["gpus"]:
            self.assertIn("CUDA_VISIBLE_DEVICES", by_name["GPU"]["text"])
            self.assertIn("unset CUDA_VISIBLE_DEVICES", by_name["GPU"]["fix"])

    def test_a_cache_that_cannot_be_written_is_a_warning_with_a_fix(self):
        _, by_name = self.findings(XDG_CACHE_HOME="/proc/nowhere", HOME="/proc/nowhere")
        self.assertEqual(by_name["cache"]["level"], "warning")
        self.assertIn("XDG_CACHE_HOME", by_name["cache"]["fix"])

    def test_gnuplot_is_looked_for_on_the_path(self):
        (self.folder / "gnuplot").write_text("#!/bin/sh\n")
        (self.folder / "gnuplot").chmod(0o755)
        _, there = self.findings(PATH=str(self.folder))
        _, missing = self.findings(PATH="/proc/nowhere")
        self.assertEqual((there["gnuplot"]["level"], missing["gnuplot"]["level"]), ("ok", "warning"))
        self.assertIn("gnuplot-nox", missing["gnuplot"]["fix"])

    def test_sqlite_and_nvtx_are_told_as_the_program_was_built(self):
        _, by_name = self.findings()
        there = b"libsqlite3.so" in drive.bench.read_bytes()
        self.assertEqual(by_name["SQLite"]["level"], "ok" if there else "warning")
        self.assertEqual("libsqlite3-dev" in (by_name["SQLite"].get("fix") or ""), not there)
        ranges = b"InitializeInjectionNvtx2" in drive.bench.read_bytes()
        self.assertIn("built with it" if ranges else "built without it", by_name["NVTX"]["text"])

    def test_a_folder_that_takes_no_results_is_a_warning(self):
        result = self.bench("doctor", "--json", cwd="/proc")
        self.assertEqual(result.code, 0, repr(result))
        by_name = {f["name"]: f for f in json.loads(result.out)["findings"]}
        self.assertEqual(by_name["results"]["level"], "warning")


if __name__ == "__main__":
    unittest.main()

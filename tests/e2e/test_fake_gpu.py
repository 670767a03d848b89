"""A machine whose driver's library tells of two GPUs that cannot be opened: NVML is a fake, CUDA is not there. What is
decided by the driver's word alone, and how the child process that opens the GPU fails."""
import hashlib
import json
import os
import re
import shutil
import sys
import unittest

import drive

fake = drive.build / "tests" / "libfake_nvml.so"
if os.path.exists("/dev/nvidiactl"):
    print("skipped: this machine has a real driver")
    sys.exit(77)


class FakeGpu(drive.BenchTest):
    def setUp(self):
        super().setUp()
        libraries = self.folder / "libraries"
        libraries.mkdir()
        shutil.copy(fake, libraries / "libnvidia-ml.so.1")
        self.driver = {"LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
        kernels = json.loads(self.bench("doctor", "--json").out)["kernels"]
        self.built = any(kernel["device"] == "cuda" for kernel in kernels)

    def needs_cuda(self):
        if not self.built:
            self.skipTest("built without CUDA")

    def test_doctor_names_the_gpus_and_what_keeps_them_from_use(self):
        found = json.loads(self.expect(self.bench("doctor", "--json", **self.driver), 0).out)
        by_name = {f["name"]: f for f in found["findings"]}
        self.assertEqual([gpu["name"] for gpu in found["gpus"]], ["NVIDIA H200"] * 2)
        self.assertEqual(found["driver"], "580.159.04")
        self.assertIn("cap 700 W", by_name["GPU 1"]["text"])
        if self.built:
            self.assertIn("takes the NVIDIA H200", by_name["GPU"]["text"])
            self.assertEqual([by_name[name]["level"] for name in ("GPU", "libcuda", "GPU engine")], ["warning"] * 3)
            self.assertIn("libcuda.so.1", by_name["GPU engine"]["text"])
            self.assertIn("NVIDIA_DRIVER_CAPABILITIES", by_name["libcuda"]["fix"])
        else:
            self.assertIn("not built in", by_name["GPU"]["text"])

    def test_doctor_says_what_a_run_does(self):
        self.needs_cuda()
        auto, cpu = ("plan", self.write_config(engine__device="auto")), ("--set", "engine.device=cpu")
        self.expect(self.bench(*auto, **self.driver), 2, "engine.device=cpu")
        self.expect(self.bench(*auto, *cpu, **self.driver), 0)
        found = json.loads(self.expect(self.bench("doctor", "--json", **self.driver), 0).out)
        self.assertEqual((found["usable"], found["gpu_usable"], found["device_auto"]), (True, False, None))
        self.assertEqual({k["usable"] for k in found["kernels"] if k["device"] == "cuda"}, {False})
        (gpu,) = [f for f in found["findings"] if f["name"] == "GPU"]
        self.assertIn("does not work", gpu["text"])
        self.assertIn("engine.device=cpu", gpu["fix"])
        told = self.bench("doctor", **self.driver).out
        self.assertRegex(told, "`bench run` can work here, on the CPU alone and only with --set engine.device=cpu")
        self.assertNotIn("on the GPU and", told)

    def test_rates_that_were_kept_do_not_pass_for_a_gpu_that_opens(self):
        self.needs_cuda()
        more = {**self.driver, "XDG_CACHE_HOME": str(self.folder / "cache")}
        self.bench("doctor", **more)
        (kept,) = (self.folder / "cache" / "chunkbench").glob("rates-*.json")
        rates = json.loads(kept.read_text())
        binary = rates["key"].splitlines()[0]
        rates["key"] = (f"{binary}\ndevice cuda attention auto linear auto\ndtype bfloat16 head_dim 128\n"
                        "gpu NVIDIA H200 driver 580.159.04 power cap 700 W\n")
        name = hashlib.sha256(rates["key"].encode()).hexdigest()[:16]
        kept.with_name(f"rates-{name}.json").write_text(json.dumps(rates))
        found = json.loads(self.bench("doctor", "--json", **more).out)
        self.assertFalse(found["gpu_usable"])
        (engine,) = [f for f in found["findings"] if f["name"] == "GPU engine"]
        self.assertEqual(engine["level"], "warning", engine)

    def test_kernels_are_usable_by_the_drivers_word(self):
        self.needs_cuda()
        lines = [line for line in self.bench("list", "kernels", **self.driver).out.splitlines() if " cuda " in line]
        self.assertTrue(lines)
        self.assertTrue(all(line.endswith(" yes") for line in lines if "sm_80" in line), lines)

    def test_a_kernel_made_of_a_library_says_what_keeps_the_library_from_use(self):
        self.needs_cuda()
        for kernel, library, file in (("cudnn", "cuDNN", "libcudnn.so.9"), ("nccl", "NCCL", "libnccl.so.2")):
            (self.folder / "libraries" / file).touch()  # found first, and no library
            (line,) = [x for x in self.bench("list", "kernels", **self.driver).out.splitlines() if f" {kernel} " in x]
            self.assertRegex(line, rf"{kernel} +cuda +{library} +no: .*{re.escape(file)}: file too short")

    def test_a_library_that_is_too_old_is_told_with_its_version(self):
        self.needs_cuda()
        old = {"cudnn": ("cuDNN", "libcudnn.so.9", "9.1", "9.10"), "nccl": ("NCCL", "libnccl.so.2", "2.10", "2.14")}
        for kernel, (library, file, version, least) in old.items():
            shutil.copy(drive.build / "tests" / "libfake_old_library.so", self.folder / "libraries" / file)
            (line,) = [x for x in self.bench("list", "kernels", **self.driver).out.splitlines() if f" {kernel} " in x]
            self.assertRegex(line, f"{library} {version} is too old: {least} or newer is needed$")
            found = json.loads(self.expect(self.bench("doctor", "--json", **self.driver), 0).out)
            (told,) = [f for f in found["findings"] if f["name"] == library]
            self.assertEqual(told["level"], "warning")
            self.assertIn(f"{version} ({file}) is too old: {least} or newer is needed", told["text"])

    def test_a_gpu_that_does_not_open_is_a_finding_about_the_device_and_nothing_runs(self):
        self.needs_cuda()
        config = self.write_config(engine__device="auto")
        for command in (["plan", config], ["run", config, "-o", self.file]):
            result = self.expect(self.bench(*command, **self.driver), 2, "small.ini:", "libcuda.so.1")
            self.assertEqual(len(result.err.splitlines()), 1, repr(result))
        self.assertFalse(self.file.exists() or self.partial.exists())

    def test_findings_of_the_file_and_of_the_gpu_are_told_together(self):
        self.needs_cuda()
        config = self.write_config(engine__device="cuda", run__repeats="x", prompt__source="file:none.txt")
        result = self.expect(self.bench("plan", config, **self.driver), 2, "libcuda.so.1", '"x"', "none.txt")
        numbers = [int(line.split(":")[1]) for line in result.err.splitlines()]
        self.assertEqual((len(numbers), numbers), (3, sorted(numbers)))

    def test_more_devices_than_there_are_is_known_by_the_drivers_word(self):
        self.needs_cuda()
        config = self.write_config(engine__device="cuda", engine__tensor_parallel_size="4")
        result = self.expect(self.bench("plan", config, "--set", "engine.devices=4", **self.driver), 2)
        self.assertIn("devices = 4: 2 GPUs can be used here", result.err)
        result = self.expect(self.bench("plan", config, "--set", "engine.devices=2", **self.driver), 2, "libcuda.so.1")
        self.assertNotIn("devices = 2", result.err)

    def test_the_cpu_is_not_concerned(self):
        result = self.expect(self.bench("plan", self.write_config(), **self.driver), 0, "2 full")
        self.assertNotIn("NVIDIA", result.out)


if __name__ == "__main__":
    unittest.main()

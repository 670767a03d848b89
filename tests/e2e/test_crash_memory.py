"""A worker that the kernel kills for its memory costs its case, with the kernel's word for it, and --resume completes it
when there is memory; in an address space that is too small, the case says what it lacked."""
import contextlib
import errno
import os
import signal
import subprocess
import time
import unittest
from pathlib import Path

import drive

model = "random:8x1024x16x4x64x4096x8192/dual:253952:8192:262144"  # 260 MiB of weights, loaded in seconds
most_mib = 170


class Group:
    """A control group of this test, below that of this process: version 1 or 2, where this user may make one."""

    def __init__(self):
        self.path = None
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if controllers == "memory":
                root, self.limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            elif number == "0" and not controllers:
                root, self.limit = Path("/sys/fs/cgroup"), "memory.max"
            else:
                continue
            try:
                folder = Path(f"{root}{path}") / f"bench-test-{os.getpid()}"
                folder.mkdir()
            except OSError:
                continue
            if (folder / self.limit).exists():
                self.path = folder
                return
            folder.rmdir()

    def set(self, value):
        (self.path / self.limit).write_text(str(value))

    def close(self):
        """The kernel counts a process as a member until it is quite gone, a moment after its end was seen."""
        end = time.monotonic() + 10
        while True:
            for pid in (self.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                return self.path.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > end:
                    raise
            time.sleep(0.05)


class Memory(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(model__path=model, engine__tensor_parallel_size=1,
                                        engine__enforce_eager="true", engine__threads=1, prompt__source="random:256",
                                        sampling__max_tokens=1, check__spot=0)
        self.expect(self.bench("plan", self.config), 0)  # the machine is measured

    def resume(self):
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 0)
        self.assertEqual([status for status, _ in self.cases().values()], ["ok"])
        self.assertTrue(self.is_complete())

    @unittest.skipIf(drive.sanitized, "a sanitizer needs memory of its own")
    def test_a_kill_by_the_kernel(self):
        group = Group()
        if not group.path:
            self.skipTest("this user may not make a control group with a limit on memory")
        self.addCleanup(group.close)
        join = f"echo $$ >{group.path}/cgroup.procs; exec {drive.bench} run {self.config} -o {self.file}"
        process = self.start("-c", join, program="sh")
        worker = self.wait_for(lambda: drive.workers(process.pid))[0]
        self.wait_for(lambda: drive.memory_mib(worker, "VmRSS") > 60)
        group.set(most_mib << 20)  # after the plan, which would have refused the case
        self.expect(self.finish(process), 5, "out of memory")
        (status, reason), = self.cases().values()
        self.assertEqual(status, "crashed")
        self.assertIn("the kernel counts 1 new OOM kill", reason)
        group.set(-1 if group.limit == "memory.limit_in_bytes" else "max")
        self.resume()
        drive.tell_faults("OOM kill of the worker in a control group", 1, 1,
                          "recorded as such, `--resume` completes it")

    @unittest.skipIf(drive.sanitized, "a sanitizer reserves terabytes of addresses")
    def test_an_address_space_that_is_too_small(self):
        done = subprocess.run(["sh", "-c", f"ulimit -v 300000; exec {drive.bench} run {self.config} -o {self.file}"],
                              capture_output=True, text=True, cwd=self.folder, env=self.environment(), timeout=240)
        self.assertEqual(done.returncode, 5, done.stdout + done.stderr)
        (status, reason), = self.cases().values()
        self.assertEqual(status, "failed", reason)
        self.assertIn("memory", reason)
        self.resume()
        drive.tell_faults("an address space that is too small (`ulimit -v`)", 1, 1,
                          "the case fails and says how much it needed")


if __name__ == "__main__":
    unittest.main()

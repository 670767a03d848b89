"""Nothing in the way: how long the program takes to begin, what the harness takes of each chunk when the engine does no
work at all, and how much memory the supervisor holds. A busy machine is no excuse: the best tries count. The figures are
printed."""
import os
import subprocess
import sys
import time
import unittest

import h5py
import numpy

import drive

if drive.sanitized:
    print("skipped: with sanitizers these figures say nothing")
    sys.exit(77)

most_start_ms = 50
most_chunk_us = 10  # beside what the kernel takes to tell of a process's memory
most_supervisor_mib = 50


def kernel_us():
    """What each chunk asks of the kernel: memory in use before and after, and its peak. The best tenth of many tries."""
    total = 0
    for name, times in (("statm", 2), ("status", 1)):
        with open(f"/proc/self/{name}", "rb") as f:
            took = []
            for _ in range(2000):
                began = time.perf_counter_ns()
                os.pread(f.fileno(), 4095, 0)
                took.append(time.perf_counter_ns() - began)
        total += times * 1e-3 * numpy.percentile(took, 10)
    return total


class Floor(drive.BenchTest):
    def test_help_comes_at_once(self):
        took = []
        for _ in range(20):
            began = time.perf_counter()
            subprocess.run([drive.bench, "--help"], stdout=subprocess.DEVNULL, check=True)
            took.append(1e3 * (time.perf_counter() - began))
        print(f"bench --help: {min(took):.1f} ms at best, {sorted(took)[10]:.1f} ms the median of 20")
        self.assertLess(min(took), most_start_ms)

    def test_the_harness_takes_microseconds_of_a_chunk(self):
        config = self.write_config(model__path="needle:4x4x64", engine__tensor_parallel_size=4, engine__threads=1,
                                   engine__enforce_eager="true", engine__max_num_batched_tokens=64,
                                   prompt__source="random:64k", sampling__max_tokens=1, check__spot=0,
                                   run__repeats=2)
        tries = []
        while not tries or (len(tries) < 8 and min(tries) >= most_chunk_us):
            tries.append(self.us_of_a_chunk(config) - kernel_us())
        self.assertLess(min(tries), most_chunk_us)

    def us_of_a_chunk(self, config):
        self.expect(self.bench("run", config, "-o", self.file, "--force", program=drive.faulty,
                               BENCH_TEST_FAULT="no_work"), 0)
        with h5py.File(self.file, "r") as f:
            group, = f["case"].values()
            chunks = group["chunks"]
            begin, latency, repeat = (chunks[name][:] for name in ("begin_ns", "latency_ns", "repeat"))
        self.assertEqual(len(begin), 2 * 1024)
        between = 1e-3 * (begin[1:] - begin[:-1] - latency[:-1])[repeat[1:] == repeat[:-1]]
        least, median = numpy.percentile(between, [10, 50])
        print(f"harness, per chunk: {least:.1f} us in the best tenth, {median:.1f} us the median of {len(between)}; "
              f"the engine without work {1e-3 * numpy.median(latency):.1f} us; the kernel for its figures {kernel_us():.1f} us")
        self.assertGreater(least, 0)
        return least

    def test_the_supervisor_is_small(self):
        most = {}
        for measured in (False, True):  # without and with a measurement of the machine in it
            env = {} if measured else {"XDG_CACHE_HOME": str(self.folder / "cache")}
            process = self.start("run", self.write_config(check__spot=0), "-o", self.file, "--force", **env)
            while process.poll() is None:
                most[measured] = max(most.get(measured, 0), drive.memory_mib(process.pid, "VmHWM"))
                time.sleep(0.005)
            self.expect(self.finish(process), 0)
        print(f"supervisor: {most[True]:.1f} MiB at most, {most[False]:.1f} MiB when it measures the machine first")
        self.assertGreater(most[True], 1)
        self.assertLess(most[True], most_supervisor_mib)
        self.assertLess(most[False], most_supervisor_mib)


if __name__ == "__main__":
    unittest.main()

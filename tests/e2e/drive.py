"""Drives the built program for the tests of this folder: a scratch folder per test, a small configuration, and what a
run left behind. Not a test itself."""
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import h5py

build = Path(os.environ["BENCH_BUILD_DIR"])
source = Path(os.environ.get("BENCH_SOURCE_DIR", Path(__file__).resolve().parents[2]))
bench = build / "bench"
faulty = build / "tests" / "bench_faulty"

# Sanitizers slow everything down and need room of their own.
sanitized = os.environ.get("BENCH_TEST_TIER", "release") in ("asan", "tsan")

# Two cases, four chunks each: the smallest thing that has a sweep, a border between chunks and an answer.
config = """
[model]
path = needle
[engine]
device = cpu
tensor_parallel_size = 2
max_num_batched_tokens = 256
enforce_eager = true, false
threads = 2
[prompt]
source = needle:1k
[sampling]
max_tokens = 32
[run]
repeats = 1
warmup = 0
[check]
spot = 4
"""


# How often faults of random place are tried: a few times in CI, BENCH_TEST_TRIES times in a campaign.
campaign = int(os.environ.get("BENCH_TEST_TRIES", 0))


def tell_faults(fault, tries, lost, then):
    """A line of the table of faults: printed, and added to the file that BENCH_TEST_FAULT_TABLE names."""
    line = f"| {fault} | {tries} | {lost} | {then} |"
    print(line)
    if os.environ.get("BENCH_TEST_FAULT_TABLE"):
        with open(os.environ["BENCH_TEST_FAULT_TABLE"], "a") as table:
            table.write(line + "\n")


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class BenchTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bench-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.file = self.folder / "run.h5"
        self.partial = self.folder / "run.partial"

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("BENCH_ALLOW", "VLLM_"))}
        cache = build / "tests" / "cache"  # measured rates: once for all tests, never the user's own
        cache.mkdir(parents=True, exist_ok=True)
        return {**env, "XDG_CACHE_HOME": str(cache), **more}

    def write_config(self, text=config, name="small.ini", **values):
        """The configuration with some values replaced: engine__threads=1."""
        for name_of, value in values.items():
            section, key = name_of.split("__")
            text = set_key(text, section, key, value)
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *args, program=bench, cwd=None, **env):
        return subprocess.Popen([str(program), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, cwd=cwd or self.folder, env=self.environment(**env),
                                start_new_session=True)

    def finish(self, process, timeout=240):
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            self.fail(f"no end after {timeout} s\n{out}\n{err}")
        return Result(process.returncode, out, err)

    def bench(self, *args, **more):
        return self.finish(self.start(*args, **more))

    def expect(self, result, code, *words):
        """The exit code, and words that stdout or stderr must hold."""
        self.assertEqual(result.code, code, repr(result))
        for word in words:
            self.assertIn(word, result.out + result.err, repr(result))
        return result

    def cases(self, path=None):
        """id -> (status, reason) of a result file."""
        with h5py.File(path or self.file, "r") as f:
            self.assertEqual(f.attrs["schema"].astype(str) if hasattr(f.attrs["schema"], "astype")
                             else f.attrs["schema"], "chunkbench")
            found = {}
            for case_id, group in f["case"].items():
                status = group["status"]
                found[case_id] = (text(status.attrs["status"]), text(status.attrs["reason"]))
            return found

    def is_complete(self, path=None):
        with h5py.File(path or self.file, "r") as f:
            return int(f.attrs["complete"]) == 1

    def wait_for_line(self, process, *words):
        """Reads stderr up to a line that holds all words."""
        while True:
            line = process.stderr.readline()
            self.assertTrue(line, f"the run ended without a line of {words}")
            if all(word in line for word in words):
                return

    def wait_for(self, what, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = what()
            if found:
                return found
            time.sleep(0.02)
        self.fail(f"waited {seconds} s in vain")


def set_key(ini, section, key, value):
    """The INI text with a key replaced, or added to its section."""
    lines, now, done = [], None, False
    for line in ini.splitlines() + ["[]"]:
        if line.startswith("["):
            if now == section and not done:
                lines.append(f"{key} = {value}")
                done = True
            now = line.strip("[]")
        elif now == section and line.split("=")[0].strip() == key:
            line, done = f"{key} = {value}", True
        lines.append(line)
    lines.pop()
    return "\n".join(lines + ([] if done else [f"[{section}]", f"{key} = {value}"])) + "\n"


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def workers(pid):
    """Workers that pid has started; not its other children, such as one that measures the machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            words = (path.parent / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z" and words[1:2] == [b"worker"]:
            found.append(int(path.parent.name))
    return found


def memory_mib(pid, key):
    """A figure of /proc/PID/status, such as VmRSS or VmHWM; 0 for a process that is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False

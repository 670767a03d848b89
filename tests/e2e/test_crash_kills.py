"""kill -9 at random moments: of a worker it costs at most the case in flight, of the supervisor too, and no worker
outlives it; --resume completes what was left, and what was finished is not run again.

BENCH_TEST_TRIES=100 tries each so often; BENCH_TEST_SEED repeats the moments of a campaign."""
import os
import random
import signal
import subprocess
import time
import unittest
from pathlib import Path

import crash
import drive

tries = drive.campaign or 3
seed = int(os.environ.get("BENCH_TEST_SEED", random.randrange(10**6)))


def workers_of(folder):
    """Processes whose command line names the folder: workers, whoever their parent is by now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"worker" in words and str(folder).encode() in words and drive.is_alive(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


class Kills(crash.CrashTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(seed)
        self.expect(self.bench("plan", self.config), 0)  # the machine is measured
        began = time.monotonic()
        self.expect(self.bench("run", self.config, "-o", self.file), 0)
        self.duration = time.monotonic() - began
        self.clear()

    def begin(self):
        """A run, and a moment in its life."""
        errors = open(self.folder / "stderr", "w")
        process = subprocess.Popen([drive.bench, "run", self.config, "-o", self.file], stdout=subprocess.DEVNULL,
                                   stderr=errors, cwd=self.folder, env=self.environment(), start_new_session=True)
        errors.close()
        time.sleep(self.random.uniform(0, self.duration))
        return process

    def end(self, process):
        try:
            return process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            self.fail("no end after 120 s")

    def test_of_a_worker(self):
        done = lost = 0
        while done < tries:
            process = self.begin()
            victims = workers_of(self.partial)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            code = self.end(process)
            with self.subTest(seed=seed, number=done):
                self.assertIn(code, (0, 5))
                if code == 0:  # between two workers, or after the last word of one: nothing was lost
                    self.clear()
                    continue
                found = self.cases()
                bad = {case_id: why for case_id, why in found.items() if why[0] != "ok"}
                self.assertEqual(len(found), crash.cases)
                self.assertEqual(len(bad), 1, bad)
                for status, reason in bad.values():
                    self.assertEqual(status, "crashed")
                    self.assertIn("SIGKILL", reason)
                lost += len(bad)
                self.resume(found.keys() - bad.keys())
            done += 1
        drive.tell_faults("`kill -9` of the worker at a random moment", done, lost,
                          "the case in flight; the sweep goes on, `--resume` completes it")

    def test_of_the_supervisor(self):
        done = lost = 0
        while done < tries:
            process = self.begin()
            os.kill(process.pid, signal.SIGKILL)
            self.end(process)
            if self.file.exists() and not self.partial.exists():
                self.clear()  # it was through
                continue
            with self.subTest(seed=seed, number=done):
                self.wait_for(lambda: not workers_of(self.partial), 10)
                kept = self.finished()
                in_flight = self.begun((self.folder / "stderr").read_text()) - kept
                self.assertLessEqual(len(in_flight), 1)
                lost += len(in_flight)
                self.resume(kept)
            done += 1
        drive.tell_faults("`kill -9` of the supervisor at a random moment", done, lost,
                          "the case in flight; no worker lives on, `--resume` completes the run")


if __name__ == "__main__":
    print("seed", seed)
    unittest.main()

"""A disk that is full from the n-th write on, an fsync or a rename that fails: an error with a name, nothing that looks
whole and is not, what was finished kept, and --resume completes it once there is room.

A few places each; with BENCH_TEST_TRIES every single write, fsync and rename of a run."""
import struct
import sys
import unittest

import crash
import drive

if drive.sanitized:
    print("skipped: a sanitizer wants to be the first library that is loaded")
    sys.exit(77)

few = 3
faults = {"full": ("no space from the n-th write on", 0), "fsync": ("EIO at the n-th fsync", 1),
          "rename": ("EIO at the n-th rename", 2)}


class Disk(crash.CrashTest):
    def setUp(self):
        super().setUp()
        self.expect(self.bench("plan", self.config), 0)  # the machine is measured

    def run_with(self, fault, at):
        """A run on a broken disk, and how many calls it made of each kind."""
        count = self.folder / "count"
        count.unlink(missing_ok=True)
        result = self.bench("run", self.config, "-o", self.file, LD_PRELOAD=str(drive.build / "tests/libdisk_shim.so"),
                            BENCH_SHIM_FAULT=fault, BENCH_SHIM_AT=str(at), BENCH_SHIM_DIR=f"{self.folder}/run",
                            BENCH_SHIM_COUNT=str(count))
        return result, struct.unpack("3q", count.read_bytes())

    def test_at_each_call(self):
        for fault, (name, index) in faults.items():
            result, counts = self.run_with(fault, 10**12)
            self.expect(result, 0)
            self.clear()
            total, lost = counts[index], 0
            self.assertGreater(total, 10)
            places = range(1, total + 1) if drive.campaign else {1 + (total - 1) * i // (few - 1) for i in range(few)}
            for at in sorted(places):
                with self.subTest(fault=fault, at=at, of=total):
                    result, _ = self.run_with(fault, at)
                    if result.code == 0:  # a folder that is to be removed stays where it was, and is emptied there
                        self.expect_complete()
                        self.clear()
                        continue
                    self.expect(result, 6, "No space left on device" if fault == "full" else "Input/output error")
                    if self.file.exists():
                        self.assertEqual(len(self.cases()), crash.cases)
                    kept = self.finished()
                    in_flight = self.begun(result.err) - kept
                    self.assertLessEqual(len(in_flight), 1)
                    lost += len(in_flight)
                    self.resume(kept)
            drive.tell_faults(f"{name} (n: {len(places)} of 1 to {total})", len(places), lost,
                              "exit code 6 and the file's name; `--resume` completes the run once there is room")


if __name__ == "__main__":
    unittest.main()

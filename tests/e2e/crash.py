"""What the tests of crash safety share: a run of four small cases in two launches, what it left, and whether --resume
makes it whole. Not a test itself."""
import re
import shutil

import h5py

import drive

cases = 4


class CrashTest(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.config = self.write_config(model__path="needle:4x4x64", engine__tensor_parallel_size="1, 2",
                                        engine__threads=1, check__spot=0)

    def clear(self):
        self.file.unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def begun(self, stderr):
        """Ids of cases that a run began."""
        return set(re.findall(r"(\S+): begins", stderr))

    def finished(self):
        """Ids of cases whose fragment is there and ok."""
        found = set()
        for path in self.partial.glob("case-*.h5"):
            with h5py.File(path, "r") as f:
                found |= {name for name, group in f["case"].items()
                          if drive.text(group["status"].attrs["status"]) == "ok"}
        return found

    def expect_complete(self):
        self.assertEqual([status for status, _ in self.cases().values()], ["ok"] * cases)
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())

    def resume(self, kept):
        """--resume, or a new run where there is nothing yet, ends with all cases; those that are kept do not run."""
        result = self.bench("run", self.config, "-o", self.file, *(["--resume"] if self.partial.exists() else []))
        self.expect(result, 0)
        self.expect_complete()
        self.assertFalse(self.begun(result.err) & set(kept))
        self.clear()

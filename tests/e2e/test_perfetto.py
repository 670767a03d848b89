"""bench trace --perfetto: Perfetto's own trace processor loads the file, and finds every op and the memory in use."""
import shutil
import subprocess
import sys
import unittest

import drive
import h5py

if not shutil.which("trace_processor_shell"):
    print("skipped: no trace_processor_shell (Perfetto's trace processor) on PATH")
    sys.exit(77)


class Perfetto(drive.BenchTest):
    def ask(self, trace, text):
        query = self.folder / "query.sql"
        query.write_text(text)
        shown = subprocess.run(["trace_processor_shell", "-q", query, trace], capture_output=True, text=True)
        return shown.stdout.splitlines()[-1]

    def test_it_finds_what_the_file_has(self):
        case, trace = "needle-1k_c256_eager_tp2_bf16", self.folder / "trace.json"
        self.expect(self.bench("run", self.write_config(run__warmup=1), "-o", self.file), 0)
        self.expect(self.bench("trace", self.file, "--case", case, "--perfetto", trace), 0)
        with h5py.File(self.file, "r") as f:
            spans = f["case"][case]["spans"]
            ns = spans["end_ns"][:] - spans["begin_ns"][:]
        self.assertEqual(self.ask(trace, "select count(*) as n, sum(dur) as ns from slice where category = 'op';"),
                         f"{len(ns)},{ns.sum()}")
        self.assertGreater(int(self.ask(trace, "select count(*) as n from counter;")), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)

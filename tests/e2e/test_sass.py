"""Machine code of GPU kernels, read from the built objects: what their speed rests on and a compiler may break.

Skipped where there is no CUDA build or no cuobjdump (named by CUOBJDUMP, beside nvcc, on PATH, or where
the wrapper puts that from PyPI)."""
import os
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

BUILD = Path(os.environ["BENCH_BUILD_DIR"])
OBJECT = BUILD / "CMakeFiles/kernels.dir/kernels/attention/attention_sm90.cu.o"
FETCHED = Path(os.environ["BENCH_SOURCE_DIR"]) / "build/cuda-tools"  # where the wrapper puts it


def find_cuobjdump():
    nvcc = shutil.which("nvcc")
    beside = str(Path(nvcc).resolve().parent) if nvcc else None
    return (os.environ.get("CUOBJDUMP") or (beside and shutil.which("cuobjdump", path=beside)) or
            shutil.which("cuobjdump") or shutil.which("cuobjdump", path=FETCHED))


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def dump(*arguments, of=OBJECT):
    path = f"{Path(TOOL).parent}:{os.environ['PATH']}"  # it runs nvdisasm, by PATH
    done = subprocess.run([TOOL, *arguments, str(of)], capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode != 0:
        skip(f"cuobjdump ended with {done.returncode}: {done.stderr.strip()[:200]}")
    return done.stdout


def functions():
    """Instructions by kernel: {mangled name: [text]}."""
    found, name = {}, None
    for line in dump("-sass").splitlines():
        if match := re.match(r"\s*Function : (\S+)", line):
            name = match[1]
            found[name] = []
        elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            found[name].append(match[1])
    return {name: code for name, code in found.items() if "attention_kernel" in name}


def count(code, pattern):
    return sum(1 for text in code if re.search(pattern, text))


def head_dim(name):
    return int(re.search(r"attention_configILi(\d+)E", name)[1])


def loop_s_wait(code):
    """Where the loop has its scores, and its outputs are under way."""
    (at,) = [i for i, text in enumerate(code) if re.search(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1", text)]
    return at


def raising(code):
    """The part of the loop in which rows are given a new maximum: from the vote on to the wait for the outputs."""
    vote = next(i for i in range(loop_s_wait(code), len(code)) if "VOTE.ANY" in code[i])
    product = max(i for i, text in enumerate(code) if re.search(r"\bHMMA\b", text))
    return range(vote, next(i for i in range(product, len(code)) if "WARPGROUP.DEPBAR" in code[i]))


class Sass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kernels = functions()

    def test_both_head_dims_are_there(self):
        self.assertEqual(sorted(map(head_dim, self.kernels)), [64, 128])

    def test_nothing_is_spilled(self):
        """But where a row is given a new maximum, which is rare."""
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                rare = raising(code)
                self.assertEqual([i for i, text in enumerate(code) if re.search(r"\b(STL|LDL)\b", text) and i not in rare], [])
        for name, stack in re.findall(r"Function (\S*attention_kernel\S*):\s+REG:\d+ STACK:(\d+)", dump("-res-usage")):
            self.assertLessEqual(int(stack), 8, name)

    def test_kernels_that_live_on_bandwidth_spill_nothing(self):
        for part in ("embed/embed", "rmsnorm/add_rmsnorm", "rope/rope_cache", "swiglu/swiglu", "logits/logits"):
            object_file = BUILD / f"CMakeFiles/kernels.dir/kernels/{part}_cuda.cu.o"
            kernels = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", dump("-res-usage", of=object_file))
            self.assertTrue(kernels, object_file)
            for name, registers, stack in kernels:
                self.assertEqual((int(stack), int(registers) <= 128), (0, True), name)

    def test_every_product_is_in_one_of_three_groups(self):
        """First tile: Q K; loop: Q K and P V; last tile: P V. A compiler that serialises opens a group a product."""
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                scores, outputs = head_dim(name) // 16, 128 // 16
                self.assertEqual(count(code, r"\bHGMMA\b"), 2 * scores + 2 * outputs)
                self.assertEqual(count(code, r"WARPGROUP\.ARRIVE"), 3)
                self.assertEqual(count(code, r"WARPGROUP\.DEPBAR"), 5)

    def test_the_loop_s_exponentials_run_beside_its_products(self):
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertEqual(count(code[loop_s_wait(code):raising(code).start], r"MUFU\.EX2"), 64)

    def test_the_loop_looks_for_no_maximum(self):
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertEqual(count(code[loop_s_wait(code):raising(code).start], r"\b(FMNMX|SHFL)\b"), 0)

    def test_registers_move_from_the_producer_to_the_products(self):
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertEqual(count(code, r"USETMAXREG\.DEALLOC"), 1)
                self.assertEqual(count(code, r"USETMAXREG\.TRY_ALLOC"), 1)


if not OBJECT.exists():
    skip(f"no CUDA build: {OBJECT.name} is not there")
TOOL = find_cuobjdump()
if not TOOL:
    skip("no cuobjdump: it comes with the CUDA toolkit, or from PyPI by `./bench test`")

if __name__ == "__main__":
    unittest.main()

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
OBJECTS = BUILD / "CMakeFiles/kernels.dir/kernels"
HOPPER = OBJECTS / "attention/attention_sm90.cu.o"
PORTABLE = OBJECTS / "attention/attention_cuda.cu.o"
FETCHED = Path(os.environ["BENCH_SOURCE_DIR"]) / "build/cuda-tools"  # where the wrapper puts it


def find_cuobjdump():
    nvcc = shutil.which("nvcc")
    beside = str(Path(nvcc).resolve().parent) if nvcc else None
    return (os.environ.get("CUOBJDUMP") or (beside and shutil.which("cuobjdump", path=beside)) or
            shutil.which("cuobjdump") or shutil.which("cuobjdump", path=FETCHED))


def nvcc_release():
    nvcc = shutil.which("nvcc")
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if nvcc else ""
    return (re.findall(r"release (\d+\.\d+)", told) or ["unknown"])[0]


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def dump(*arguments, of):
    path = f"{Path(TOOL).parent}:{os.environ['PATH']}"  # it runs nvdisasm, by PATH
    done = subprocess.run([TOOL, *arguments, str(of)], capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode != 0:
        skip(f"cuobjdump ended with {done.returncode}: {done.stderr.strip()[:200]}")
    return done.stdout


def functions(of, part):
    """Instructions of the kernels whose names have that part: {"architecture mangled_name": [text]}."""
    found, name, architecture = {}, None, None
    for line in dump("-sass", of=of).splitlines():
        if match := re.match(r"arch = (\S+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\S+)", line):
            name = f"{architecture} {match[1]}"
            found[name] = []
        elif match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            found[name].append(match[1])
    return {name: code for name, code in found.items() if part in name}


def count(code, pattern):
    return sum(1 for text in code if re.search(pattern, text))


def head_dim(name):
    return int(re.search(r"(?:attention_config|mma_kernel)ILi(\d+)E", name)[1])


def loop_s_wait(code):
    """Where the loop has its scores, and its outputs are under way."""
    (at,) = [i for i, text in enumerate(code) if re.search(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1", text)]
    return at


def raising(code):
    """The part of the loop in which rows are given a new maximum: from the vote on to the wait for the outputs."""
    vote = next(i for i in range(loop_s_wait(code), len(code)) if "VOTE.ANY" in code[i])
    product = max(i for i, text in enumerate(code) if re.search(r"\bHMMA\b", text))
    return range(vote, next(i for i in range(product, len(code)) if "WARPGROUP.DEPBAR" in code[i]))


class Objects(unittest.TestCase):
    def test_each_holds_the_machine_code_that_it_was_built_for(self):
        """Hopper's kernels exactly that of 9.0a; the others 8.0 and 9.0, and what a driver makes newer code from."""
        for path in (*OBJECTS.glob("*.cu.o"), *OBJECTS.glob("*/*.cu.o")):
            with self.subTest(object=path.name):
                hopper = path.name.endswith("_sm90.cu.o")
                listed = re.findall(r"\.(sm_\w+\.(?:cubin|ptx))$", dump("-lelf", "-lptx", of=path), re.M)
                self.assertEqual(sorted(listed), ["sm_90a.cubin"] if hopper else
                                 ["sm_80.cubin", "sm_90.cubin", "sm_90.ptx"])

    def test_kernels_that_live_on_bandwidth_spill_nothing(self):
        for part in ("embed/embed", "rmsnorm/add_rmsnorm", "rope/rope_cache", "swiglu/swiglu", "logits/logits"):
            kernels = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)",
                                 dump("-res-usage", of=OBJECTS / f"{part}_cuda.cu.o"))
            self.assertTrue(kernels, part)
            for name, registers, stack in kernels:
                self.assertEqual((int(stack), int(registers) <= 128), (0, True), name)


class Hopper(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.kernels = functions(HOPPER, "attention_kernel")

    def test_both_head_dims_are_there(self):
        self.assertEqual(sorted(map(head_dim, self.kernels)), [64, 128])

    def test_nothing_is_spilled(self):
        """But where a row is given a new maximum, which is rare."""
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                rare = raising(code)
                self.assertEqual([i for i, text in enumerate(code) if re.search(r"\b(STL|LDL)\b", text) and i not in rare], [])
        stacks = re.findall(r"Function (\S*attention_kernel\S*):\s+REG:\d+ STACK:(\d+)", dump("-res-usage", of=HOPPER))
        self.assertEqual(len(stacks), 2)
        for name, stack in stacks:
            self.assertLessEqual(int(stack), 8, name)

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
                beside = code[loop_s_wait(code) + 1:raising(code).start]
                self.assertEqual((count(beside, r"MUFU\.EX2"), count(beside, r"WARPGROUP\.DEPBAR")), (64, 0))

    def test_the_loop_looks_for_no_maximum(self):
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertEqual(count(code[loop_s_wait(code):raising(code).start], r"\b(FMNMX|SHFL)\b"), 0)

    def test_registers_move_from_the_producer_to_the_products(self):
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertEqual(count(code, r"USETMAXREG\.DEALLOC"), 1)
                self.assertEqual(count(code, r"USETMAXREG\.TRY_ALLOC"), 1)


class Portable(unittest.TestCase):
    # Loads and stores of local memory that there may be. nvcc 13.0 makes 17, 13, 25 and 70 for sm_80, and 33, 21, 26 and
    # 83 for sm_90; two more are room for a patch release. Still more mean that a change took registers from the loop.
    # What other releases make is not known: they may spill twice as much.
    LOCAL = {"sm_80": {32: 19, 64: 15, 96: 27, 128: 72}, "sm_90": {32: 35, 64: 23, 96: 28, 128: 85}}

    @classmethod
    def setUpClass(cls):
        cls.kernels = functions(PORTABLE, "mma_kernel")

    def test_all_head_dims_are_there_on_both_architectures(self):
        there = sorted((name.split()[0], head_dim(name)) for name in self.kernels)
        self.assertEqual(there, [(architecture, d) for architecture in ("sm_80", "sm_90") for d in (32, 64, 96, 128)])

    def test_products_are_the_tensor_cores(self):
        """A warp has 32 queries and 64 keys a tile: D for Q K and D for P V, each 16 x 8 x 16, written out once."""
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertEqual(count(code, r"\bHMMA\.16816\.F32\.BF16\b"), 2 * head_dim(name))

    def test_no_more_is_spilled_than_was(self):
        times = 1 if nvcc_release() == "13.0" else 2
        for name, code in self.kernels.items():
            with self.subTest(kernel=name):
                self.assertLessEqual(count(code, r"\b(STL|LDL)\b"), times * self.LOCAL[name.split()[0]][head_dim(name)])

    def test_three_blocks_of_the_smallest_head_dim_fit_on_an_sm(self):
        """Of 65,536 registers. With the others two fit whatever they take: 255 is the most."""
        registers = re.findall(r"Function \S*mma_kernelILi32E\S*:\s+REG:(\d+)", dump("-res-usage", of=PORTABLE))
        self.assertEqual([3 * 128 * int(each) <= 65536 for each in registers], [True, True], registers)


if not HOPPER.exists():
    skip(f"no CUDA build: {HOPPER.name} is not there")
TOOL = find_cuobjdump()
if not TOOL:
    skip("no cuobjdump: it comes with the CUDA toolkit, or from PyPI by `./bench test`")
dump("-sass", of=OBJECTS / "cuda/beat.cu.o")  # a tool that cannot read what nvcc built is none

if __name__ == "__main__":
    unittest.main()

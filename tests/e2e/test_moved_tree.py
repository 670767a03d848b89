"""A source tree with a build in it that was copied: the program uses the files around it and names their commit, and the
wrapper builds anew."""
import os
import shutil
import subprocess
import unittest

import h5py

import drive

# In the place of cmake: notes how it was called, and makes what the real one would.
cmake = """#!/bin/sh
printf '%s\\n' "$*" >>"$CMAKE_CALLS"
case $1 in
--build) mkdir -p "$2" && printf '#!/bin/sh\\necho built anew: "$@"\\n' >"$2/bench" && chmod +x "$2/bench" ;;
*) while [ $# -gt 1 ]; do case $1 in -S) from=$2 ;; -B) to=$2 ;; esac; shift; done
   echo "CMAKE_HOME_DIRECTORY:INTERNAL=$from" >"$to/CMakeCache.txt" ;;
esac
"""


class MovedTree(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.tree = self.folder / "a copy"
        for name in ("configs", "plots", "harness"):
            shutil.copytree(drive.source / name, self.tree / name)
        for name in ("bench", "CMakeLists.txt"):
            shutil.copy(drive.source / name, self.tree)
        self.build = self.tree / "build"
        self.build.mkdir()
        shutil.copy(drive.bench, self.build)
        shutil.copy(drive.build / "CTestTestfile.cmake", self.build)
        (self.build / "CMakeCache.txt").write_text(f"CMAKE_HOME_DIRECTORY:INTERNAL={drive.source}\n")

    def moved(self, *args):
        return self.bench(*args, program=self.build / "bench")

    def commit(self):
        me = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        for words in (["init", "-q", "."], ["add", "bench"], [*me, "commit", "-q", "-m", "t"]):
            subprocess.run(["git", "-C", self.tree, *words], check=True)
        return subprocess.run(["git", "-C", self.tree, "rev-parse", "HEAD"], check=True, capture_output=True,
                              text=True).stdout.strip()

    def test_configurations_are_those_around_the_program(self):
        (self.tree / "configs" / "of_the_copy.ini").write_text("# Is this one found?\n")
        result = self.expect(self.moved("list", "configs"), 0, f"{self.tree}/configs/of_the_copy.ini")
        self.assertNotIn(f"{drive.source}/", result.out)
        self.expect(self.moved("doctor"), 0, f"configurations in {self.tree}/configs")

    def test_plots_are_those_around_the_program(self):
        shutil.rmtree(self.tree / "plots")
        self.expect(self.bench("run", self.write_config(engine__enforce_eager="true"), "-o", self.file), 0)
        self.expect(self.moved("plot", self.file), 6, "plots/style.gp")

    @unittest.skipUnless(shutil.which("git"), "no git here")
    def test_the_commit_is_that_of_the_tree_around_the_program(self):
        commit = self.commit()
        self.expect(self.moved("run", self.write_config(engine__enforce_eager="true"), "-o", self.file), 0)
        with h5py.File(self.file, "r") as f:
            self.assertEqual(drive.text(f["run"].attrs["git_commit"]), commit)

    def test_the_tests_of_another_tree_are_not_run(self):
        self.expect(self.moved("test", "--only", "unit"), 5, "was moved since")

    def wrapper(self):
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "cmake").write_text(cmake)
        (tools / "cmake").chmod(0o755)
        self.calls = self.folder / "calls"
        return self.bench("list", "configs", program=self.tree / "bench", BENCH_NO_INSTALL="1",
                          CMAKE_CALLS=str(self.calls), PATH=f"{tools}:{os.environ['PATH']}")

    def test_ci_runs_the_tier_that_there_is_time_for(self):
        shutil.copytree(drive.source / ".ci", self.tree / ".ci")
        (self.tree / "bench").write_text('#!/bin/sh\necho "$CI: $*"\n')
        for tiers, args in (("", "test"), ("1", "test --all")):
            out = subprocess.run([self.tree / ".ci/run"], env=self.environment(CI_ALL_TIERS=tiers),
                                 capture_output=True, text=True, check=True).stdout
            self.assertEqual(out, f"true: {args}\n")

    def test_the_wrapper_builds_anew_though_no_source_is_newer(self):
        for path in (self.build / "CMakeFiles", self.build / "tests" / "CMakeFiles", self.build / "asan"):
            path.mkdir(parents=True)
        (self.build / "asan" / "CMakeCache.txt").write_text("of the old tree")
        for stamp in ("program", "tests"):
            (self.build / f".built-{stamp}").touch()
        self.expect(self.wrapper(), 0, f"building program in {self.build}", "built anew: list configs")
        left = {str(path.relative_to(self.build)) for path in self.build.rglob("*")}
        self.assertFalse(left & {"CMakeFiles", "tests/CMakeFiles", "asan/CMakeCache.txt", ".built-tests"}, left)
        calls = self.calls.read_text()
        self.assertIn(f"-S {self.tree} -B {self.build}", calls)
        result = self.expect(self.wrapper(), 0, "built anew: list configs")
        self.assertNotIn("building", result.err)
        self.assertEqual(self.calls.read_text(), calls, "the second time there is nothing to do")


if __name__ == "__main__":
    unittest.main()

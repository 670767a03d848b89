"""The wrapper gets cuobjdump where nvcc came without it, once; whatever goes wrong there, the tests run."""
import os
import shutil
import sys
import unittest
import zipfile

import drive

cmake = """#!/bin/sh
case $1 in
--build) printf '#!/bin/sh\\necho runs: "$@"\\n' >"$2/bench" && chmod +x "$2/bench" ;;
*) while [ $# -gt 1 ]; do case $1 in -S) from=$2 ;; -B) to=$2 ;; esac; shift; done
   echo "CMAKE_HOME_DIRECTORY:INTERNAL=$from" >"$to/CMakeCache.txt" ;;
esac
"""

# Python, but for pip: that copies the wheels that there are.
python = f"""#!/bin/sh
[ "$1 $2" = "-m pip" ] || exec {sys.executable} "$@"
echo "$3" >>"$CALLS"
[ "$3" = download ] || exit 0
while [ "$1" != -d ]; do shift; done
mkdir -p "$2" && cp "$WHEELS"/*.whl "$2"
"""

system_path = "/usr/local/bin:/usr/bin:/bin"


@unittest.skipIf(shutil.which("cuobjdump", path=system_path), "cuobjdump is among the system's programs")
class Cuobjdump(drive.BenchTest):
    def setUp(self):
        super().setUp()
        self.tree, self.tools, self.wheels = self.folder / "tree", self.folder / "tools", self.folder / "wheels"
        self.got, self.calls = self.tree / "build" / "cuda-tools", self.folder / "calls"
        for folder in (self.tree, self.tools, self.wheels, self.tree / "tests"):
            folder.mkdir()
        shutil.copy(drive.source / "bench", self.tree)
        self.tool("cmake", cmake)
        self.tool("python3", python)
        self.tool("nvcc")
        self.tool("dpkg-query", "#!/bin/sh\necho ii\n")  # every package is there, and none can be had
        self.tool("apt-cache", "#!/bin/sh\nexit 1\n")
        self.wrapper(BENCH_NO_INSTALL="1")  # builds

    def tool(self, name, text="#!/bin/sh\n"):
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def wheel(self, tool, text="#!/bin/sh\n"):
        with zipfile.ZipFile(self.wheels / f"{tool}.whl", "w") as wheel:
            wheel.writestr(f"nvidia/cu13/bin/{tool}", text)

    def both_wheels(self):
        self.wheel("cuobjdump")
        self.wheel("nvdisasm")

    def wrapper(self, *args, **env):
        env = {"BENCH_NO_INSTALL": "", "CUOBJDUMP": "", "CALLS": self.calls, "WHEELS": self.wheels,
               "PATH": f"{self.tools}:{system_path}", **env}
        return self.expect(self.bench("test", *args, program=self.tree / "bench", **env), 0, "runs: test")

    def told(self, **env):
        return self.wrapper(**env).err.count("bench: ")

    def test_it_comes_once_and_runs(self):
        self.both_wheels()
        self.assertIn("getting cuobjdump", self.wrapper().err)
        for tool in ("cuobjdump", "nvdisasm"):
            self.assertTrue(os.access(self.got / tool, os.X_OK), tool)
        calls = self.calls.read_text()
        self.assertEqual((self.told(), self.calls.read_text()), (0, calls))

    def test_where_none_can_be_had_it_says_so_once(self):
        self.assertIn(f"e2e_sass is skipped; the log is {self.got}/log", self.wrapper().err)
        self.assertIn("cp: ", (self.got / "log").read_text())
        self.assertEqual(self.told(), 0)
        shutil.rmtree(self.got)
        self.both_wheels()
        self.assertNotIn("skipped", self.wrapper().err)

    def test_what_comes_and_does_not_run_is_none(self):
        self.wheel("nvdisasm")
        self.wheel("cuobjdump", "#!/bin/sh\nexit 1\n")
        self.assertIn("skipped", self.wrapper().err)

    def test_a_wheel_that_is_none_is_no_obstacle(self):
        (self.wheels / "cuobjdump.whl").write_text("not a zip file")
        self.assertIn("skipped", self.wrapper().err)

    def test_nothing_comes_where_nothing_may_be_installed(self):
        self.both_wheels()
        result = self.wrapper(BENCH_NO_INSTALL="1")
        self.assertEqual(result.err, "bench: no cuobjdump: e2e_sass is skipped\n")
        self.assertFalse(self.calls.exists() or self.got.exists())

    def test_nothing_comes_where_it_is_already_or_is_not_needed(self):
        self.both_wheels()
        self.assertEqual(self.told(CUOBJDUMP="/somewhere/cuobjdump"), 0)
        toolkit = self.folder / "toolkit"
        toolkit.mkdir()
        for tool in ("nvcc", "cuobjdump"):
            (self.tools / tool).unlink(missing_ok=True)
            self.tool(f"../toolkit/{tool}")
        (self.tools / "nvcc").symlink_to(toolkit / "nvcc")
        self.assertEqual(self.told(), 0, "beside nvcc")
        (toolkit / "cuobjdump").rename(self.tools / "cuobjdump")
        self.assertEqual(self.told(), 0, "on PATH")
        if not shutil.which("nvcc", path=system_path):
            (self.tools / "cuobjdump").unlink()
            (self.tools / "nvcc").unlink()
            self.assertEqual(self.told(), 0, "no nvcc")
        self.assertFalse(self.calls.exists() or self.got.exists())


if __name__ == "__main__":
    unittest.main()

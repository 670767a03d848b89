"""An installed program, and the archive for machines without our packages: it works from any folder, with the source and
the build hidden and none of our packages' libraries in use."""
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

import h5py

import drive

if drive.sanitized:
    print("skipped: nobody packs a program with sanitizers in it")
    sys.exit(77)

# What every distribution has, and what comes with CUDA.
of_the_system = re.compile(r"^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s)\.so|"
                           r"lib(cuda|cublas|cudart|nvidia|nvrtc|nvJitLink|nccl|cupti|cudnn))")
most_mib = 60


def in_private(words):
    """A command in mounts of its own, where neither the source nor the build folder is to be seen, nor CUDA."""
    hidden = [drive.build, drive.source, *Path("/usr/local").glob("cuda*")]  # nor CUDA's libraries
    mounts = "".join(f"mount -t tmpfs none '{path.resolve()}' && " for path in hidden)
    return ["unshare", "-m", "sh", "-c", mounts + 'exec "$@"', "sh", *words]


can_hide = shutil.which("unshare") and subprocess.run(in_private(["true"]), capture_output=True).returncode == 0
if not can_hide:
    print("(the source stays visible: no mounts for this user)")


class Package(drive.BenchTest):
    @classmethod
    def setUpClass(cls):
        cls.place = Path(tempfile.mkdtemp(prefix="bench-package-"))
        cls.addClassCleanup(shutil.rmtree, cls.place, ignore_errors=True)
        made = subprocess.run(["cpack", "-G", "TGZ", "--config", drive.build / "CPackConfig.cmake", "-B", cls.place],
                              capture_output=True, text=True, cwd=cls.place)
        if made.returncode != 0:
            raise AssertionError(made.stdout + made.stderr)
        cls.archive, = cls.place.glob("*.tar.gz")
        with tarfile.open(cls.archive) as archive:
            archive.extractall(cls.place / "unpacked")
        cls.top, = (cls.place / "unpacked").iterdir()
        shutil.rmtree(cls.place / "_CPack_Packages", ignore_errors=True)

    def program(self, *args, top=None, **env):
        """Runs the unpacked program with next to nothing in its environment."""
        bare = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "XDG_CACHE_HOME": str(self.folder), **env}
        command = [str((top or self.top) / "bin/bench"), *map(str, args)]
        done = subprocess.run(in_private(command) if can_hide else command, capture_output=True, text=True,
                              cwd=self.folder, env=bare, timeout=240)
        return drive.Result(done.returncode, done.stdout, done.stderr)

    def test_it_is_small(self):
        mib = self.archive.stat().st_size / 2**20
        print(f"{self.archive.name}: {mib:.1f} MiB")
        self.assertLess(mib, most_mib)
        sections = subprocess.run(["readelf", "-S", self.top / "bin/bench"], capture_output=True, text=True).stdout
        self.assertNotIn(".debug_info", sections)

    def test_it_lands_in_the_build_folder(self):
        settings = (drive.build / "CPackConfig.cmake").read_text()
        self.assertIn(f'set(CPACK_PACKAGE_DIRECTORY "{drive.build.resolve()}")', settings)

    def test_no_library_of_our_packages_is_taken_from_the_system(self):
        done = subprocess.run(["ldd", self.top / "bin/bench"], capture_output=True, text=True)
        ours = 0
        for line in done.stdout.splitlines():
            name, _, path = line.strip().partition(" => ")
            path = path.split(" (")[0]
            if of_the_system.match(Path(name.split(" (")[0]).name):
                continue
            self.assertEqual(Path(path).resolve().parent, (self.top / "lib").resolve(), line)
            ours += 1
        self.assertGreater(ours, 4)
        for path in (self.top / "lib").iterdir():
            self.assertFalse(of_the_system.match(path.name), path.name)
            self.assertFalse(path.is_symlink(), path.name)

    def test_it_lists_its_own_configurations_wherever_it_is_moved(self):
        self.expect(self.program("list", "models"), 0, "needle")
        for top in (self.top, self.place / "moved elsewhere"):
            if top != self.top:
                shutil.copytree(self.top, top)
            result = self.expect(self.program("list", "configs", top=top), 0, "smoke.ini")
            self.assertIn(f"{top}/share/chunkbench/configs/quickstart.ini", result.out)
            self.assertTrue(Path(f"{top}/share/chunkbench/plots/style.gp").is_file(), "what bench plot draws with")
            self.assertIn(f"{top}/share/chunkbench/configs/quickstart.ini", self.program("--help", top=top).out)

    def test_it_runs_and_knows_its_commit(self):
        config = self.write_config()
        self.expect(self.program("run", config, "-o", self.file), 0, "ok: 2 of 2 cases ran")
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})
        self.expect(self.program("show", self.file), 0, "needle-1k_c256_eager_tp2_bf16")
        revision = (self.top / "share/chunkbench/revision").read_text().strip()
        with h5py.File(self.file, "r") as f:
            commit = drive.text(f["run"].attrs["git_commit"])
            self.assertEqual(bool(f["run"].attrs["git_dirty"]), revision.endswith("-dirty"))
        self.assertEqual(commit, revision.removesuffix("-dirty") or "unknown")
        installed = self.top / "share/chunkbench/configs/smoke.ini"
        self.expect(self.program("plan", installed), 0, "cases in 2 launches")
        for name in ("configs/smoke.ini", "smoke.ini"):  # as the README of the source tree names them
            self.expect(self.program("plan", name), 6, f"open the configuration {name}", str(installed))

    def test_its_doctor_says_where_its_data_is(self):
        found = {x["name"]: x for x in json.loads(self.program("doctor", "--json").out)["findings"]}
        self.assertEqual(found["data"]["level"], "ok")
        self.assertIn(f"{self.top}/share/chunkbench", found["data"]["text"])
        alone = self.place / "alone"
        (alone / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.top / "bin/bench", alone / "bin")
        found = {x["name"]: x for x in json.loads(self.program(
            "doctor", "--json", top=alone, LD_LIBRARY_PATH=str(self.top / "lib")).out)["findings"]}
        if can_hide:  # else it finds its source
            self.assertEqual(found["data"]["level"], "warning")
            self.assertIn("share", found["data"]["fix"])

    def test_its_tests_stayed_at_home(self):
        self.expect(self.program("test"), 5, "source folder")

    def test_installing_brings_pages_and_no_libraries(self):
        prefix = self.folder / "prefix"
        done = subprocess.run(["cmake", "--install", drive.build, "--prefix", prefix], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        pages = {"man": "share/man/man1/bench.1", "bash": "share/bash-completion/completions/bench",
                 "zsh": "share/zsh/site-functions/_bench", "fish": "share/fish/vendor_completions.d/bench.fish"}
        for page, path in pages.items():
            self.assertEqual((prefix / path).read_text(), self.bench("describe", page).out, page)
        self.assertFalse((prefix / "lib").exists())
        self.expect(self.program("list", "configs", top=prefix), 0, f"{prefix}/share/chunkbench/configs")


if __name__ == "__main__":
    unittest.main()

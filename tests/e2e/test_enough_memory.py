"""What keeps a test from the kernel's OOM killer: enough_memory starts it, or skips it by name and with the number."""
import json
import subprocess
import unittest
from pathlib import Path

import drive


class EnoughMemory(unittest.TestCase):
    def start(self, *words):
        return subprocess.run([drive.build / "tests" / "enough_memory", *words], capture_output=True, text=True)

    def test_a_program_that_finds_enough_is_started_with_its_arguments(self):
        done = self.start("1", "sh", "-c", 'echo "$1"; exit 5', "sh", "two words")
        self.assertEqual((done.returncode, done.stdout), (5, "two words\n"))

    def test_a_program_that_would_not_is_skipped_with_the_number(self):
        done = self.start("100000000", "sh", "-c", "echo started")
        self.assertEqual(done.returncode, 77)
        self.assertRegex(done.stdout, r"^skipped: needs \d+00000000 MiB of memory, \d+ MiB are available ")

    def test_mistakes_are_no_skip(self):
        self.assertEqual(self.start("much", "true").returncode, 2)
        self.assertEqual(self.start("1").returncode, 2)
        self.assertEqual(self.start("1", "/no/such/program").returncode, 127)

    def test_every_script_has_the_guard(self):
        listed = subprocess.run(["ctest", "--test-dir", drive.build, "--show-only=json-v1"], capture_output=True,
                                text=True, check=True).stdout
        scripts = {t["name"]: t["command"] for t in json.loads(listed)["tests"] if t["name"].startswith("e2e_")}
        self.assertIn("e2e_run", scripts)
        for name, command in scripts.items():
            self.assertEqual(Path(command[0]).name, "enough_memory", name)


if __name__ == "__main__":
    unittest.main()

"""The manual page and the completions come from the tables: whatever --help knows is in them, and shells accept them."""
import re
import shutil
import subprocess
import unittest

import drive


class Describe(drive.BenchTest):
    @classmethod
    def setUpClass(cls):
        def read(*args):
            return subprocess.run([drive.bench, *args], capture_output=True, text=True, check=True).stdout

        cls.pages = {name: read("describe", name) for name in ("man", "bash", "zsh", "fish")}
        commands = read("--help").split("commands:\n")[1].split("\n\n")[0]
        cls.options = {}
        for name in re.findall(r"^  (\w+)", commands, re.M):
            cls.options[name] = re.findall(r"^  (-\S+)", read(name, "--help"), re.M)
        cls.keys = re.findall(r"^  (\w+) = ", read("list", "options"), re.M)

    def page(self, name):
        path = self.folder / f"bench.{name}"
        path.write_text(self.pages[name])
        return path

    def tool(self, name):
        found = shutil.which(name)
        if not found:
            self.skipTest(f"{name} is not installed")
        return found

    def complete(self, line):
        """What bash offers for the last word of a line."""
        script = """
            . "$1"
            COMP_LINE="$2" COMP_POINT=${#2}
            _bench
            printf '%s\\n' "${COMPREPLY[@]}"
        """
        done = subprocess.run(["bash", "-c", script, "bash", self.page("bash"), line], capture_output=True, text=True,
                              cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""), line)
        return set(done.stdout.split())

    def test_the_manual_has_every_command_option_and_key(self):
        page = self.pages["man"].replace("\\-", "-")
        self.assertGreater(len(self.keys), 30)
        for command, options in self.options.items():
            self.assertIn("--help", options)
            part = page.split(f".SS bench {command}")[1].split(".SS ")[0]
            for option in options:
                self.assertIn(f"\\fB{option}\\fR", part, command)
        for key in self.keys:
            self.assertIn(f"\\fB{key}\\fR = ", page)
        for code in ("2", "3", "5", "6", "130"):
            self.assertIn(f"\\fB{code}\\fR\n", page)

    def test_groff_takes_the_manual_without_a_warning(self):
        groff = self.tool("groff")
        done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-P-cbou", self.page("man")], capture_output=True,
                              text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("bench run [OPTION...] CONFIG", done.stdout)
        self.assertIn("BENCH(1)", done.stdout)
        self.assertNotIn("\\f", done.stdout)

    def test_help_and_manual_fit_80_columns(self):
        for command in [[], *([name] for name in self.options)]:
            for line in self.bench(*command, "--help").out.splitlines():
                if not line.endswith("configs/quickstart.ini"):  # as long as the way there
                    self.assertLessEqual(len(line), 80, command)
        groff = self.tool("groff")
        done = subprocess.run([groff, "-man", "-Tutf8", "-rLL=80n", "-P-cbou", self.page("man")], capture_output=True,
                              text=True)
        self.assertEqual([line for line in done.stdout.splitlines() if len(line) > 80], [])
        self.assertIn("  models   that need no download", done.stdout, "a table keeps its lines")

    def test_bash_completes_commands_and_options(self):
        self.assertEqual(self.complete("bench pl"), {"plan", "plot"})
        self.assertLessEqual(set(self.options), self.complete("bench "))
        self.assertLessEqual(set(self.options), self.complete("bench help "))
        for command, options in self.options.items():
            self.assertEqual(self.complete(f"bench {command} -"), set(options), command)
        self.assertEqual(self.complete("bench run x.ini --re"), {"--resume"})
        self.assertEqual(self.complete("bench list m"), {"models"})

    def test_bash_completes_keys_and_their_words(self):
        self.assertIn("engine.device=", self.complete("bench run --set eng"))
        # readline broke the word at "=": what stands before it is not part of the reply
        self.assertEqual(self.complete("bench run --set engine.device=c"), {"cpu", "cuda"})
        self.assertEqual(self.complete("bench run --set=engine.device=au"), {"auto"})
        self.assertEqual(self.complete("bench run --set engine.enforce_eager="), {"", "true", "false"} - {""})

    def test_bash_completes_words_of_options_and_names_of_prompts(self):
        self.assertEqual(self.complete("bench plot --format "), {"png", "svg", "png,svg"})
        self.assertEqual(self.complete("bench kernels --device=cu"), {"cuda"})
        self.assertEqual(self.complete("bench fetch q"), {"qwen:64k", "qwen:200k", "qwen:600k", "qwen:1m"})
        # readline broke the word at ":"
        self.assertEqual(self.complete("bench fetch qwen:6"), {"64k", "600k"})

    def test_bash_completes_files_that_fit(self):
        for name in ("a b.ini", "run.h5", "run.log"):
            (self.folder / name).touch()
        (self.folder / "sub").mkdir()
        self.assertEqual(self.complete("bench show r"), {"run.h5"})
        self.assertEqual(self.complete("bench run "), {"a", "b.ini", "sub"})  # one name, two words of output
        self.assertEqual(self.complete("bench run -o run"), {"run.h5", "run.log"})

    def test_zsh_reads_its_completion(self):
        done = subprocess.run([self.tool("zsh"), "-n", self.page("zsh")], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for command, options in self.options.items():
            part = self.pages["zsh"].split(f"    {command})\n")[1].split(";;")[0]
            for option in options:
                self.assertRegex(part, rf"'\*?{option}[=\[]", command)

    def test_fish_completes(self):
        fish = self.tool("fish")

        def complete(line):
            done = subprocess.run([fish, "-N", "-c", f"source {self.page('fish')}; complete -C '{line}'"],
                                  capture_output=True, text=True, cwd=self.folder, env=self.environment(
                                      HOME=str(self.folder)))
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return {found.split("\t")[0] for found in done.stdout.splitlines()}

        (self.folder / "run.h5").touch()
        self.assertEqual(complete("bench pl"), {"plan", "plot"})
        self.assertIn("--resume", complete("bench run --re"))
        self.assertIn("engine.device=cpu", complete("bench run --set engine.dev"))
        self.assertIn("run.h5", complete("bench show r"))
        self.assertIn("qwen:1m", complete("bench fetch q"))

    def test_a_page_that_there_is_not(self):
        self.expect(self.bench("describe", "tcsh"), 2, "expected man, bash, zsh or fish", "tcsh")
        self.expect(self.bench("run", "--help=tcsh"), 2, "--help")


if __name__ == "__main__":
    unittest.main()

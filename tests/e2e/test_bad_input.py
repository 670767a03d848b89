"""Bad input: every finding has its message and its exit code, and nothing runs."""
import os
import socket
import subprocess
import unittest

import drive


class BadInput(drive.BenchTest):
    def refuse(self, code, *words, **values):
        result = self.bench("run", self.write_config(**values), "-o", self.file)
        self.expect(result, code, *words)
        self.assertFalse(self.file.exists() or self.partial.exists(), "something was left behind")
        return result

    def line_of(self, text):
        for number, line in enumerate((self.folder / "small.ini").read_text().splitlines(), 1):
            if line.startswith(text):
                return f"small.ini:{number}:"
        self.fail(f"no line {text}")

    def test_unknown_key(self):
        result = self.refuse(2, "max_num_batched_tokens", engine__max_num_batch_tokens="512")
        self.assertIn(self.line_of("max_num_batch_tokens"), result.err)

    def test_unknown_section(self):
        self.refuse(2, "engin", engin__threads="2")

    def test_wrong_type(self):
        result = self.refuse(2, "three", engine__tensor_parallel_size="three")
        self.assertIn(self.line_of("tensor_parallel_size"), result.err)

    def test_empty_axis(self):
        result = self.refuse(2, engine__max_num_batched_tokens="")
        self.assertIn(self.line_of("max_num_batched_tokens"), result.err)

    def test_all_findings_at_once(self):
        result = self.refuse(2, engine__tensor_parallel_size="three", run__repeats="-1", check__spot="x")
        for key in ("tensor_parallel_size", "repeats", "spot"):
            self.assertIn(self.line_of(key), result.err)

    def test_what_needs_the_model_comes_with_the_rest_by_line(self):
        config = self.write_config(model__path="needel", run__repeats="-1", check__spot="x",
                                   engine__tensor_parallel_size="two", prompt__source="needle:1")
        for command in ("run", "plan"):
            output = ["-o", self.file] if command == "run" else []
            result = self.expect(self.bench(command, config, *output, "--set", "run.spans=maybe"), 2)
            where = [line.split(": ")[0].split("/")[-1] for line in result.err.splitlines()]
            expected = [self.line_of(key).rstrip(":") for key in
                        ("path", "tensor_parallel_size", "source", "repeats", "spot")]
            self.assertEqual(where, [*expected, "--set run.spans=maybe"], repr(result))
        self.write_config(model__path="needle", run__repeats="-1", engine__tensor_parallel_size="3")
        result = self.expect(self.bench("plan", config), 2)
        for key in ("tensor_parallel_size", "repeats"):
            self.assertIn(self.line_of(key), result.err)

    def test_instruction_set_that_is_not_here(self):
        kernels = self.bench("list", "kernels").out.splitlines()
        if any("amx_bf16" in line and line.rstrip().endswith("yes") for line in kernels):
            self.skipTest("this machine has amx_bf16")
        for command in ("run", "plan"):
            result = self.bench(command, drive.source / "configs" / "smoke.ini", "--set", "engine.isa=amx_bf16")
            self.expect(result, 2, "--set engine.isa=amx_bf16: ", "this machine has ")
            self.assertNotIn("attention_backend", result.err)

    def test_override_that_is_wrong(self):
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--set", "engine.thread=2"), 2,
                    "--set engine.thread", "threads")

    def test_length_over_the_limit_names_the_switch(self):
        self.refuse(2, "allow_long_max_model_len", model__path="random:nano", model__max_model_len="4m")

    def test_prompt_longer_than_the_model(self):
        self.refuse(2, "small.ini", model__max_model_len="512")

    def test_tp_that_does_not_divide(self):
        result = self.refuse(2, "3", engine__tensor_parallel_size="3")
        self.assertIn(self.line_of("tensor_parallel_size"), result.err)

    def test_unreadable_prompt(self):
        self.refuse(6, "no-such-file.txt", "No such file", prompt__source="file:no-such-file.txt")

    def test_prompt_that_is_no_regular_file(self):
        """None is opened: a pipe without a writer would hold the program for ever."""
        os.mkfifo(self.folder / "pipe")
        (self.folder / "link").symlink_to("pipe")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.folder / "socket"))
        for path, words in ((self.folder, "it is a directory"), (self.folder / "pipe", "it is a pipe"),
                            (self.folder / "link", "it is a pipe"), (self.folder / "socket", "it is a socket"),
                            ("/dev/zero", "it is a device"), ("/dev/tty", "it is a device"),
                            ("/dev/stdin", "not the same for every process")):
            with self.subTest(path=path):
                result = self.refuse(2, str(path), words, "expected a regular file", prompt__source=f"file:{path}")
                self.assertIn(self.line_of("source"), result.err)
                self.expect(self.bench("plan", self.folder / "small.ini"), 2, words)

    def test_standard_input_that_is_a_file_is_no_prompt(self):
        config = self.write_config(prompt__source="file:/dev/stdin")
        (self.folder / "text.txt").write_text("a text " * 100)
        with open(self.folder / "text.txt") as text:
            done = subprocess.run([drive.bench, "run", config, "-o", self.file], stdin=text, capture_output=True,
                                  text=True, env=self.environment(), cwd=self.folder, timeout=240)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertIn("not the same for every process", done.stderr)
        self.assertFalse(self.file.exists() or self.partial.exists())

    def test_prompt_that_is_not_utf8(self):
        (self.folder / "latin1.txt").write_bytes(b"caf\xe9 " * 1000)
        self.refuse(2, "UTF-8", "latin1.txt", prompt__source=f"file:{self.folder}/latin1.txt")

    def test_empty_prompt(self):
        (self.folder / "empty.txt").write_bytes(b"")
        self.refuse(2, "empty", prompt__source=f"file:{self.folder}/empty.txt")

    def test_prompt_shorter_than_the_needle(self):
        self.refuse(2, "needle", prompt__source="needle:10")

    def test_model_that_is_not_known(self):
        self.refuse(2, "needel", model__path="needel")

    def test_kernel_that_is_not_known(self):
        self.refuse(2, "fastest", engine__attention_backend="fastest")

    def test_results_folder_that_cannot_be_written(self):
        if os.geteuid() == 0:
            folder = "/proc"  # not even root makes files there
        else:
            folder = self.folder / "locked"
            folder.mkdir(mode=0o555)
        self.expect(self.bench("run", self.write_config(), "-o", f"{folder}/run.h5"), 6, str(folder))

    def test_results_folder_that_is_a_file(self):
        (self.folder / "taken").write_text("")
        self.expect(self.bench("run", self.write_config(), "-o", self.folder / "taken" / "run.h5"), 6, "taken")

    def test_a_result_that_is_a_folder(self):
        result = self.bench("run", self.write_config(), "-o", self.folder)
        self.expect(result, 2, f"{self.folder} is a folder")
        self.assertNotIn("--force", result.err)
        self.assertNotIn("begins", result.err)

    def test_a_results_folder_that_was_mistyped_is_not_made(self):
        result = self.bench("run", self.write_config(), "-o", self.folder / "resluts" / "run.h5")
        self.expect(result, 6, f"folder {self.folder}/resluts does not exist")
        self.assertFalse((self.folder / "resluts").exists())

    def test_no_space_left(self):
        """On a file system of 256 KiB: an I/O error that says so, and no result that looks whole."""
        small = self.folder / "small"
        small.mkdir()
        mount = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
        script = f"mount -t tmpfs -o size=256k none {small}"
        if subprocess.run([*mount, "sh", "-c", script], capture_output=True).returncode != 0:
            self.skipTest("this system lets nobody mount a small file system")
        config = self.write_config()
        # leaves room for the folder's own files, not for the fragments
        fill = f"head -c 200000 /dev/zero > {small}/filler"
        run = f"{drive.bench} run {config} -o {small}/run.h5; code=$?; ls {small}; exit $code"
        done = subprocess.run([*mount, "sh", "-c", f"{script} && {fill} && {run}"], capture_output=True, text=True,
                              env=self.environment(), cwd=self.folder, timeout=240)
        self.assertEqual(done.returncode, 6, done.stdout + done.stderr)
        self.assertIn("No space left", done.stderr)
        self.assertNotIn("run.h5\n", done.stdout)

    def test_a_limit_on_the_size_of_files(self):
        """SIGXFSZ must not kill: the write that fails is named. 20 blocks of 512 bytes hold the folder's own files."""
        config = self.write_config()
        run = f"ulimit -f 20; exec {drive.bench} run {config} -o {self.file}"
        done = subprocess.run(["sh", "-c", run], capture_output=True, text=True, env=self.environment(),
                              cwd=self.folder, timeout=240)
        self.assertEqual(done.returncode, 6, done.stdout + done.stderr)
        self.assertIn("File too large", done.stderr)
        self.assertFalse(self.file.exists())


if __name__ == "__main__":
    unittest.main()

"""A worker that is several processes: the answers of threads, and an end with a reason whatever happens to one. The
launcher is one of the tests' own; where mpirun is installed it starts them, too."""
import csv
import os
import shutil
import signal
import sys
import time
import unittest
from pathlib import Path

import h5py

import drive

spawn = f"{sys.executable} '{drive.source / 'tests' / 'fakes' / 'spawn.py'}'"
mpirun = "mpirun --oversubscribe" + (" --allow-run-as-root" if os.geteuid() == 0 else "") + " -n"
slow = 5 if drive.sanitized else 1


def of_folder(folder):
    """Processes of runs in this folder that are alive: pid -> words of the command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        pid = int(path.parent.name)
        if any(str(folder).encode() in word for word in words) and drive.is_alive(pid):
            found[pid] = words
    return found


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def kill_if_alive(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Processes(drive.BenchTest):
    launcher = f"{spawn} 2"

    def config_of(self, launcher=None, **values):
        values = {"engine__devices": 2, "engine__launcher": self.launcher if launcher is None else launcher,
                  "engine__enforce_eager": "true", "engine__max_num_batched_tokens": "256, 512", **values}
        return self.write_config(**values)

    def run_config(self, config, *args, program=drive.bench, file=None, **env):
        # the folder is named so that whoever is left behind is found
        return self.bench("run", config, "-o", file or self.file, *args, program=program, **env)

    def expect_none_left(self):
        self.wait_for(lambda: not of_folder(self.folder), 10 * slow)

    def expect_first_lost(self, result, status, *words):
        """The case with chunks of 256 has the status and the words in its reason; that with 512 is fine."""
        self.expect(result, 5)
        cases = self.cases()
        self.assertEqual(len(cases), 2)
        for case_id, (found, reason) in cases.items():
            self.assertEqual(found, "ok" if "_c512_" in case_id else status, reason)
            for word in words if "_c512_" not in case_id else ():
                self.assertIn(word, reason)
        self.expect_none_left()


class Answers(Processes):
    def record(self, path):
        """What a run with processes must share with one without."""
        with h5py.File(path, "r") as f:
            found = {}
            for case_id, g in f["case"].items():
                spans, of_spans = g["spans"], {}
                for device in set(spans["device"][()]):
                    of_spans[int(device)] = sorted(zip(*(spans[name][()][spans["device"][()] == device].tolist()
                                                         for name in ("chunk", "layer", "rank", "flops", "bytes"))))
                found[case_id] = {
                    "status": drive.text(g["status"].attrs["status"]),
                    "spans": of_spans,
                    "logprob": g["decode/logprob"][()].tolist(),
                    "token_ids": g["outputs/token_ids"][()].tolist(),
                    "top": g["outputs/top/logprob"][()].tolist(),
                    "verdicts": g["outputs/checks/verdict"][()].tolist(),
                    **{f"{of}/{name}": g[f"{of}/{name}"][()].tolist()
                       for of, names in {"chunks": ("start_token", "flops", "bytes", "replayed"),
                                         "memory": ("rank", "weights", "kv", "activations", "workspace",
                                                    "kv_high_water")}.items() for name in names}}
                latency, slowest = g["chunks/latency_ns"][()], g["chunks/device_latency_ns"][()]
                self.assertEqual(slowest.shape[1], int(self.devices))
                self.assertTrue((slowest > 0).all() and (slowest.max(axis=1) <= latency).all())
                memory = g["memory"]
                self.assertTrue((memory["driver_after"][()] > 0).all())
            return found

    def expect_memory_to_add_up(self, path):
        """What is not accounted for is what the system says less what is accounted, of the fullest memory."""
        for row in csv.DictReader(self.expect(self.bench("show", path, "--csv"), 0).out.splitlines()):
            missing = int(row["peak_driver_bytes"]) - int(row["peak_device_bytes"])
            self.assertLess(abs(missing - int(row["unaccounted_bytes"])), int(row["peak_driver_bytes"]) // 8, row["id"])

    def compare(self, launcher, **values):
        values = {"engine__tensor_parallel_size": 4, "engine__enforce_eager": "true, false", "run__spans": "all",
                  **values}
        self.devices = values.get("engine__devices", 2)
        threads, processes = self.folder / "threads.h5", self.folder / "processes.h5"
        self.expect(self.run_config(self.config_of(launcher="", **values), file=threads), 0)
        self.expect(self.run_config(self.config_of(launcher=launcher, **values), file=processes), 0)
        self.assertEqual(self.record(threads), self.record(processes))
        for path, memories in ((threads, 1), (processes, int(self.devices))):
            with h5py.File(path, "r") as f:
                for case in f["case"].values():
                    self.assertEqual(case.attrs["memories"], memories)
            self.expect_memory_to_add_up(path)
        self.expect_none_left()

    def test_processes_answer_as_threads_do(self):
        self.compare(f"{spawn} 2")

    def test_four_processes(self):
        self.compare(f"{spawn} 4", engine__devices=4)

    @unittest.skipUnless(shutil.which("mpirun"), "mpirun is not installed")
    def test_mpirun(self):
        self.compare(f"{mpirun} 2")

    def test_a_launcher_of_one_process_is_a_prefix(self):
        self.expect(self.run_config(self.config_of(launcher="env SOME=THING")), 0)

    def test_a_launcher_that_is_not_there_is_an_error_of_the_configuration(self):
        self.expect(self.run_config(self.config_of(launcher="no-such-launcher -n 2")), 2, "small.ini:",
                    "there is no program no-such-launcher here")
        self.expect(self.run_config(self.config_of(launcher="mpirun 'n")), 2, "a quote without its end")

    def test_another_number_than_devices(self):
        self.expect(self.run_config(self.config_of(launcher=f"{spawn} 4", engine__tensor_parallel_size=4)), 5,
                    "devices = 2, but 4 processes were started")
        self.expect_none_left()


class Failures(Processes):
    def faulty(self, fault="", process="", config=None, **values):
        env = {**({"BENCH_TEST_FAULT": fault} if fault else {}), **({"BENCH_TEST_PROCESS": process} if process else {})}
        return self.run_config(config or self.config_of(**values), program=drive.faulty, **env)

    def test_a_follower_is_killed_in_mid_chunk(self):
        self.expect_first_lost(self.faulty("kill_rank:1,256"), "crashed", "process 1 of 2 (pid ", "SIGKILL",
                               "after chunk 1 of 4")

    def test_process_0_is_killed_in_mid_chunk(self):
        self.expect_first_lost(self.faulty("kill_rank:0,256"), "crashed", "process 0 of 2 (pid ", "SIGKILL",
                               "after chunk 1 of 4")

    @unittest.skipUnless(shutil.which("mpirun"), "mpirun is not installed")
    def test_one_that_mpirun_has_started_is_killed(self):
        self.launcher = f"{mpirun} 2"
        self.expect_first_lost(self.faulty("kill_rank:1,256"), "crashed", "process 1 of 2 (pid ", "SIGKILL")

    def worker(self, number):
        """Pid of the worker that is process `number` of those that the launcher has started."""
        found = [pid for pid, words in of_folder(self.folder).items() if b"worker" in words]
        environment = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in found}
        return max(pid for pid in found if b"BENCH_PROCESS=%d" % number in environment[pid])  # after its guard

    def test_kill_9_from_outside(self):
        process = self.start("run", self.config_of(run__repeats=200, engine__max_num_batched_tokens=256), "-o",
                             self.file)
        self.wait_for_line(process, "begins")
        time.sleep(0.5 * slow)
        second = self.worker(1)
        os.kill(second, signal.SIGKILL)
        result = self.finish(process)
        self.expect(result, 5, f"process 1 of 2 (pid {second})", "SIGKILL, not by bench")
        self.expect_none_left()

    def test_a_hang_of_one_device(self):
        seconds = 20 if drive.sanitized else 4
        for launcher in (f"{spawn} 2", ""):
            with self.subTest(launcher=launcher):
                begin = time.monotonic()
                result = self.faulty("stick_rank:1,256", launcher=launcher, run__watchdog=f"{seconds}s")
                self.expect_first_lost(result, "timeout", f"no progress for {seconds} s", "after chunk 1 of 4",
                                       "device 0: exchange", "device 1: attention, layer 0, rank 1")
                self.assertLess(time.monotonic() - begin, 3 * seconds + 60)
                self.file.unlink()
                shutil.rmtree(self.partial, ignore_errors=True)

    def stopped_in_mid_case(self, launcher, stop, *words):
        seconds = 3 * slow
        process = self.start("run", self.config_of(launcher=launcher, run__repeats=500, run__watchdog=f"{seconds}s",
                                                   engine__max_num_batched_tokens=256), "-o", self.file)
        self.wait_for_line(process, "begins")
        time.sleep(0.5 * slow)
        os.kill(stop(process), signal.SIGSTOP)
        self.expect(self.finish(process), 5)
        for status, reason in self.cases().values():
            self.assertEqual(status, "timeout", reason)
            for word in (f"no progress for {seconds} s", *words):
                self.assertIn(word, reason)
        self.expect_none_left()

    def test_one_that_is_stopped_is_named(self):
        self.stopped_in_mid_case(self.launcher, lambda process: self.worker(1), "(process 0: state ",
                                 ", process 1: state T): killed, after ", ": device 0: ",
                                 "; device 1: did not tell")

    def test_a_worker_of_threads_that_is_stopped_did_not_tell(self):
        self.stopped_in_mid_case("", lambda process: drive.workers(process.pid)[0], "(process state T): killed, after",
                                 ": the worker did not tell what its devices were at")

    def test_one_that_is_stopped_while_a_session_opens(self):
        # the others use processor time as they wait, which is no sign of life there
        result = self.faulty(process="stopped:1", run__watchdog=f"{4 * slow}s", engine__max_num_batched_tokens=256)
        self.expect(result, 5, f"no progress for {4 * slow} s", "before its first chunk ended")
        self.expect_none_left()

    def test_one_that_does_not_come(self):
        result = self.faulty(process="away:1", run__watchdog="4s")
        self.expect(result, 5, "process 1 of 2 did not come within 2 s")
        self.expect_none_left()

    @unittest.skipUnless(shutil.which("mpirun"), "mpirun is not installed")
    def test_one_that_does_not_come_for_which_mpirun_ends_the_others(self):
        self.launcher = f"{mpirun} 2"
        self.expect(self.faulty(process="away:1", run__watchdog="60s"), 5, "process 1 of 2 did not come; process 0")
        self.expect_none_left()

    def test_one_without_memory(self):
        if drive.sanitized:
            self.skipTest("sanitizers reserve more than any limit leaves")
        result = self.faulty(process="poor:1", model__path="random:half-b")
        self.expect(result, 5, "the model was not loaded: process 1 of 2", "ulimit")
        self.expect_none_left()

    def test_a_launcher_that_fails(self):
        self.expect(self.run_config(self.config_of(launcher="false")), 5,
                    "the launcher false: exited with code 1, no worker was started by the launcher")

    def test_a_launcher_that_starts_nothing(self):
        self.expect(self.run_config(self.config_of(launcher="true")), 5,
                    "the launcher true: exited with code 0, no worker was started by the launcher")

    def test_a_launcher_that_refuses_is_heard_from_its_first_line_on(self):
        (self.folder / "refuse").write_text("cat >&2 << end\n----------\n\nThere are not enough slots.\n"
                                            "  Ask for fewer.\n\n----------\nYou were warned.\nend\nexit 3\n")
        self.expect(self.run_config(self.config_of(launcher=f"sh '{self.folder / 'refuse'}'")), 5,
                    "the launcher sh: exited with code 3, no worker was started by the launcher: "
                    "There are not enough slots. Ask for fewer. You were warned.")

    def lose_launcher(self):
        process = self.start("run", self.config_of(run__repeats=500, engine__max_num_batched_tokens=256), "-o",
                             self.file)
        self.wait_for_line(process, "begins")
        time.sleep(0.5 * slow)
        os.kill(self.launcher_of(process), signal.SIGKILL)
        self.expect(self.finish(process), 5)
        (status, reason), = self.cases().values()
        self.assertEqual(status, "crashed")
        self.assertRegex(reason, rf"^the launcher {self.launcher.split()[0]}: killed by SIGKILL, not by bench, after ")
        self.expect_none_left()

    def test_a_launcher_that_is_killed_is_named(self):
        self.lose_launcher()

    @unittest.skipUnless(shutil.which("mpirun"), "mpirun is not installed")
    def test_mpirun_killed_is_named(self):
        self.launcher = f"{mpirun} 2"
        self.lose_launcher()

    def test_no_process_outlives_a_supervisor_that_is_killed(self):
        process = self.start("run", self.config_of(run__watchdog="60s"), "-o", self.file, program=drive.faulty,
                             BENCH_TEST_FAULT="stick_rank:1,256")
        self.wait_for_line(process, "begins")
        time.sleep(0.5 * slow)
        self.assertGreater(len(of_folder(self.folder)), 3)
        os.kill(process.pid, signal.SIGKILL)
        self.finish(process)
        self.expect_none_left()

    def launcher_of(self, process):
        return next(pid for pid, words in of_folder(self.folder).items()
                    if parent_of(pid) == process.pid and b"worker" in words)

    def stop_guard(self, process, number):
        """SIGSTOP for the guard of a process, which is the launcher's child of that number."""
        launcher = self.launcher_of(process)
        guards = sorted(pid for pid in of_folder(self.folder) if parent_of(pid) == launcher)
        os.kill(guards[number], signal.SIGSTOP)
        self.addCleanup(kill_if_alive, guards[number])

    def test_a_guard_that_is_stopped_holds_up_no_run_that_is_done(self):
        for number in (0, 1):
            with self.subTest(guard=number):
                process = self.start("run", self.config_of(), "-o", self.file)
                self.wait_for_line(process, "begins")
                self.stop_guard(process, number)
                self.expect(self.finish(process, 60 * slow), 0)
                self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})
                self.expect_none_left()
                self.file.unlink()

    def test_a_second_interrupt_is_heeded_while_a_guard_is_stopped(self):
        process = self.start("run", self.config_of(run__repeats=500), "-o", self.file)
        self.wait_for_line(process, "begins")
        self.stop_guard(process, 1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        self.expect(self.finish(process, 4 * slow), 130, "interrupted")
        self.expect_none_left()

    def test_an_interrupt_ends_all_after_the_chunk(self):
        process = self.start("run", self.config_of(run__repeats=500), "-o", self.file)
        self.wait_for_line(process, "begins")
        process.send_signal(signal.SIGINT)
        self.expect(self.finish(process), 130, "interrupted")
        self.expect_none_left()


if __name__ == "__main__":
    unittest.main()

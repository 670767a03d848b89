"""Ctrl-C once: the chunk ends, what there is is written and merged, exit 130. Twice: at once. Both can be resumed."""
import os
import shlex
import signal
import time
import unittest

import drive


class Interrupt(drive.BenchTest):
    def begin(self, fault="slow:1", *args, **values):
        self.config = self.write_config(**values)
        process = self.start("run", self.config, "-o", self.file, *args, program=drive.faulty, BENCH_TEST_FAULT=fault,
                             BENCH_TEST_CASE="*_eager_*")
        self.workers = self.wait_for(lambda: drive.workers(process.pid))
        self.wait_for_line(process, "_eager_", "begins")
        time.sleep(0.5)
        return process

    def resume(self):
        self.expect(self.bench("run", self.config, "-o", self.file, "--resume"), 0)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())

    def test_once_finishes_the_chunk_writes_and_merges(self):
        for sent in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(sent):
                process = self.begin()
                os.kill(process.pid, sent)
                self.expect(self.finish(process), 130, "interrupted", "--resume")
                cases = self.cases()
                self.assertEqual(len(cases), 2)
                self.assertIn("interrupted", [status for status, _ in cases.values()])
                self.assertFalse(self.is_complete())
                for pid in self.workers:
                    self.assertFalse(drive.is_alive(pid))
                self.resume()
                self.file.unlink()

    def test_the_line_that_is_printed_goes_on(self):
        process = self.begin("slow:1", "--set", "run.repeats=2", "--set", "check.spot=4", "--only", "*_tp2_*")
        os.kill(process.pid, signal.SIGINT)
        result = self.expect(self.finish(process), 130)
        (line,) = [line.split("to go on: bench ")[1] for line in result.err.splitlines() if "to go on: bench " in line]
        self.assertIn("--only '*_tp2_*'", line)
        self.expect(self.bench(*shlex.split(line)), 0)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})
        self.assertFalse(self.partial.exists())

    def test_what_was_not_asked_for_at_first_runs_when_it_is_resumed(self):
        process = self.begin("slow:1", "--only", "*_eager_*")
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130)
        self.assertTrue(all("_eager_" in name for name in self.cases()))
        self.resume()
        self.assertEqual(len(self.cases()), 2)

    def test_a_chunk_alone_leaves_nothing_to_go_on_with(self):
        # one chunk that takes many seconds
        config = self.write_config(prompt__source="needle:64k", engine__max_num_batched_tokens="131072")
        process = self.start("run", config, "-o", self.file, "--only", "*_eager_*", "--chunk", "last", "--once")
        self.wait_for(lambda: drive.workers(process.pid))
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        result = self.expect(self.finish(process), 130)
        self.assertNotIn("to go on", result.err)
        self.assertFalse(self.partial.exists())

    def test_twice_stops_at_once_and_what_was_finished_is_kept(self):
        process = self.begin("hang:1")
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130, "--resume")
        self.assertLess(time.monotonic() - began, 5)
        for pid in self.workers:
            self.assertFalse(drive.is_alive(pid))
        self.assertFalse(self.file.exists())
        self.assertTrue(self.partial.exists())
        self.resume()

    def test_a_worker_that_somebody_stops_costs_its_case_alone(self):
        process = self.begin()
        for pid in self.workers:
            os.kill(pid, signal.SIGTERM)
        self.expect(self.finish(process), 5, "not by bench", "--resume")
        self.assertEqual(sorted(status for status, _ in self.cases().values()), ["crashed", "ok"])
        self.resume()

    def test_a_terminal_interrupts_the_supervisor_alone(self):
        process = self.begin()
        for pid in self.workers:
            self.assertNotEqual(os.getpgid(pid), process.pid)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole foreground group
        self.expect(self.finish(process), 130)
        reasons = [reason for status, reason in self.cases().values() if status == "interrupted"]
        self.assertTrue(any("stopped before chunk" in reason for reason in reasons), reasons)

    def test_cases_of_launches_that_did_not_start_are_told_of_too(self):
        process = self.begin(engine__tensor_parallel_size="2, 4")
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130)
        cases = self.cases()
        self.assertEqual(len(cases), 4)
        self.assertEqual([reason for case_id, (_, reason) in cases.items() if "_tp4_" in case_id],
                         ["not started: the run was interrupted"] * 2)
        self.resume()

    def test_a_worker_that_is_just_being_started_stops_before_its_first_case(self):
        self.config = self.write_config()
        result = self.bench("run", self.config, "-o", self.file, program=drive.faulty, BENCH_TEST_EARLY="off")
        self.expect(result, 130, "interrupted: 2 of 2 cases are left", "--resume")
        self.assertEqual({reason for _, reason in self.cases().values()}, {"not started: the run was interrupted"})
        self.resume()

    def in_the_last_chunk_of_all(self, *args, **values):
        self.config = self.write_config(run__coverage="sample:3", **values)  # sampled: no token after the chunk
        return self.bench("run", self.config, "-o", self.file, program=drive.faulty, BENCH_TEST_FAULT="interrupt:3",
                          BENCH_TEST_CASE="*_graph_*")

    def test_an_interrupt_in_the_last_chunk_of_all_leaves_nothing(self):
        result = self.in_the_last_chunk_of_all(run__spans="none", check__spot="0")
        self.expect(result, 0, "ok: 2 of 2 cases ran")
        self.assertNotIn("left", result.err)
        self.assertTrue(self.is_complete())
        self.assertFalse(self.partial.exists())

    def test_spans_and_rows_to_check_after_the_last_chunk_are_left(self):
        for values, reason in (({"run__spans": "all", "check__spot": "0"}, "spans: stopped before chunk 1 of 3"),
                               ({"run__spans": "none", "check__spot": "5"}, "stopped before row 1 of 5 of the spot check")):
            with self.subTest(reason):
                self.expect(self.in_the_last_chunk_of_all(**values), 130, "interrupted: 1 of 2 cases are left", "--resume")
                self.assertEqual([r for status, r in self.cases().values() if status == "interrupted"], [reason])
                self.assertFalse(self.is_complete())
                self.resume()
                self.file.unlink()

    def test_a_model_that_is_being_loaded_stops_at_its_next_weight(self):
        # a gigabyte of random weights, of which a part is there when the interrupt comes
        config = self.write_config(model__path="random:half-b", engine__tensor_parallel_size="1",
                                   prompt__source="random:256", sampling__max_tokens="1", check__spot="0")
        process = self.start("run", config, "-o", self.file)
        worker = self.wait_for(lambda: drive.workers(process.pid))[0]
        self.wait_for(lambda: drive.memory_mib(worker, "VmRSS") > 150)
        os.kill(process.pid, signal.SIGINT)
        self.expect(self.finish(process), 130, "interrupted: 2 of 2 cases are left", "--resume")
        self.assertEqual([status for status, _ in self.cases().values()], ["interrupted"] * 2)
        self.assertIn("stopped while loading half-b", (self.partial / "worker-0.log").read_text())

    def test_an_interrupt_on_json_still_gives_one_object(self):
        import json
        process = self.begin("slow:1", "--json")
        os.kill(process.pid, signal.SIGINT)
        result = self.finish(process)
        self.assertEqual(result.code, 130, repr(result))
        json.loads(result.out)


if __name__ == "__main__":
    unittest.main()

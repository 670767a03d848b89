"""A worker that dies costs its case: recorded with the reason, while the sweep goes on."""
import json
import os
import signal
import unittest

import h5py

import drive


class Death(drive.BenchTest):
    def run_with(self, fault, *args, case="*_eager_*", **values):
        config = self.write_config(**values)
        result = self.bench("run", config, "-o", self.file, *args, program=drive.faulty, BENCH_TEST_FAULT=fault,
                            BENCH_TEST_CASE=case)
        return result

    def expect_one_lost(self, result, status, *words):
        """The eager case has the status and the words in its reason; the graph case is fine."""
        self.expect(result, 5)
        cases = self.cases()
        self.assertEqual(len(cases), 2)
        for case_id, (found, reason) in cases.items():
            if "_graph_" in case_id:
                self.assertEqual(found, "ok", reason)
                continue
            self.assertEqual(found, status, reason)
            for word in words:
                self.assertIn(word, reason)
                self.assertIn(word, result.err)
            self.assertIn(case_id, result.out)
            self.assertIn(case_id, result.err)
        self.assertTrue(self.partial.exists())
        self.assertIn("--resume", result.err)

    def lost_status(self):
        with h5py.File(self.file, "r") as f:
            for case_id, group in f["case"].items():
                if "_eager_" in case_id:
                    status = group["status"]
                    tail = status["stderr_tail"][()] if "stderr_tail" in status else b""
                    return int(status.attrs["exit_signal"]), drive.text(tail if isinstance(tail, bytes)
                                                                        else bytes(tail))
        self.fail("no eager case")

    def test_abort(self):
        self.expect_one_lost(self.run_with("abort:2"), "crashed", "SIGABRT", "after chunk 2 of 4",
                             "aborting on purpose")
        exit_signal, tail = self.lost_status()
        self.assertEqual(exit_signal, signal.SIGABRT)
        self.assertIn("aborting on purpose", tail)

    def test_segmentation_fault_in_the_first_chunk(self):
        self.expect_one_lost(self.run_with("segv:0"), "crashed", "SIGSEGV")

    def test_a_kernel_that_writes_to_nowhere(self):
        self.expect_one_lost(self.run_with("bad_address:1"), "crashed", "SIGSEGV", "after chunk 1 of 4")

    def test_exit_code(self):
        self.expect_one_lost(self.run_with("exit:3"), "crashed", "code 7", "leaving on purpose")

    def test_killed_from_outside_is_not_put_on_memory(self):
        self.expect_one_lost(self.run_with("kill:1"), "crashed", "SIGKILL", "not by bench")

    def test_out_of_memory_kill_is_a_crash(self):
        self.expect_one_lost(self.run_with("oom:1"), "crashed", "SIGKILL")
        self.assertIn("out of memory on purpose", self.lost_status()[1])

    def test_hang(self):
        seconds = 20 if drive.sanitized else 3
        self.expect_one_lost(self.run_with("hang:1", run__watchdog=f"{seconds}s"), "timeout",
                             f"no progress for {seconds} s")

    def test_a_death_in_every_case_ends_with_a_table_all_the_same(self):
        result = self.run_with("abort:0", case="*")
        self.expect(result, 5)
        self.assertEqual([status for status, _ in self.cases().values()], ["crashed", "crashed"])

    def test_json_tells_of_a_crash(self):
        result = self.run_with("abort:0", "--json")
        self.assertEqual(result.code, 5, repr(result))
        self.assertIn("SIGABRT", json.dumps(json.loads(result.out)))

    def test_no_worker_outlives_a_supervisor_that_is_killed(self):
        process = self.start("run", self.write_config(), "-o", self.file, program=drive.faulty,
                             BENCH_TEST_FAULT="hang:1")
        workers = self.wait_for(lambda: drive.workers(process.pid))
        self.wait_for_line(process, "begins")
        os.kill(process.pid, signal.SIGKILL)
        self.finish(process)
        for pid in workers:
            self.wait_for(lambda: not drive.is_alive(pid), 10)
        # and what it leaves can be resumed
        self.expect(self.bench("run", self.write_config(), "-o", self.file, "--resume"), 0)
        self.assertEqual({status for status, _ in self.cases().values()}, {"ok"})

    def test_a_worker_that_is_started_by_hand_explains_itself(self):
        self.expect(self.bench("worker"), 2, "bench run")
        self.expect(self.bench("worker", "--fd", "0", "--dir", ".", "--time", "0", "0", "--probe", "off", "x"), 2, "supervisor")


if __name__ == "__main__":
    unittest.main()

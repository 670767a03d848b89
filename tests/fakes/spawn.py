"""A launcher of the tests' own: spawn.py N COMMAND... starts N processes of one host, tells each its place, waits for
all, and ends with the worst of their exit codes. Like those of MPI it lets none outlive it that listens to it."""
import os
import signal
import subprocess
import sys

count = int(sys.argv[1])
started = [subprocess.Popen(sys.argv[2:], env={**os.environ, "BENCH_PROCESS": str(i), "BENCH_PROCESSES": str(count),
                                               "BENCH_LOCAL_PROCESS": str(i)}) for i in range(count)]


def pass_on(number, frame):
    for process in started:
        process.send_signal(number)


signal.signal(signal.SIGTERM, pass_on)
sys.exit(max(abs(process.wait()) for process in started))

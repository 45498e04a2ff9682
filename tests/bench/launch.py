"""Runs a command, and prints its exit code, seconds, seconds of CPU, and peak memory in bytes.

    python3 -I -S launch.py COMMAND ARGUMENT...

This is a small process of its own, because the peak of a process includes the memory that its
parent had at the fork.
"""
import os
import sys
import time

begin = time.perf_counter()
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    finally:
        os._exit(127)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - begin
code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
print(code, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

"""The number of malloc arenas, as the C library itself tells it."""

import os
import platform
import subprocess
import sys

COUNT = """
import ctypes, os, sys, tempfile, threading
from jest_tf import cli

if sys.argv[1] == "bounded":
    cli.bound_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fdopen.restype = ctypes.c_void_p, ctypes.c_void_p
everyone = threading.Barrier(int(sys.argv[2]))

def allocate():
    everyone.wait()  # A thread that ends gives its arena to the next.
    libc.malloc(1000)
    everyone.wait()

threads = [threading.Thread(target=allocate) for _ in range(everyone.parties)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fdopen(os.dup(file.fileno()), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(open(file.name).read().count("<heap nr="))
"""


def test_there_are_no_more_arenas_than_cores():
    if platform.libc_ver()[0] != "glibc":
        return  # Other C libraries have no arenas.
    bound = max(2, os.cpu_count())
    n_threads = 2 * bound + 2
    assert arenas("bounded", n_threads) <= bound < arenas("free", n_threads)
    assert arenas("bounded", n_threads, MALLOC_ARENA_MAX=str(bound + 1)) == bound + 1


def arenas(mode: str, n_threads: int, **environment: str) -> int:
    """Arenas of a process after that many threads at a time have allocated."""
    command = [sys.executable, "-c", COUNT, mode, str(n_threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return int(done.stdout)

"""Keeps the memory of a long run flat: free memory that the C library sets aside per thread."""

import ctypes
import os

_M_ARENA_MAX = -8  # glibc's malloc.h


def bound_arenas() -> None:
    """At most one of glibc's malloc arenas per core, and two at least; before threads allocate.

    By default there may be eight per core. A step's buffers are taken by ever other threads, and
    each arena keeps what it once needed: a run of small steps then grew by some 20 kB a step
    (`benchmarks.faults --part=soak`). Does nothing where the variable MALLOC_ARENA_MAX says how
    many there may be, or where the C library is another.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, max(2, os.cpu_count() or 1))

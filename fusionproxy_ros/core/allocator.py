"""What glibc does with freed image buffers. Apart from the fuser, which who only plays images does not need."""

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # <malloc.h>
LIBC = ctypes.CDLL(None)
PR_SET_THP_DISABLE = 41  # <linux/prctl.h>


def keep_freed_memory() -> None:
    """Keep image-sized buffers in the process; glibc would return each to the kernel and fault it in again.

    For the whole process, once at its start, before it has a second thread, which importing numpy starts. Does nothing
    where the C library is not glibc.
    """
    if mallopt := getattr(LIBC, "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # glibc's largest
        mallopt(M_TRIM_THRESHOLD, 512 << 20)
        # One heap: what one thread frees another can have, and the ends of others are never given back. Those that
        # there are already stay in use.
        mallopt(M_ARENA_MAX, 1)
        # numpy asks for huge pages under large arrays, and that part of the heap keeps them: whatever little is put
        # there later, once it was given back, brings 2 MB.
        LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def give_back_freed_memory() -> None:
    """All that is free goes back to the kernel: what a start and a burst needed, and what an exception held.

    Takes two or three milliseconds, and as much from the next frame: for now and then.
    """
    gc.collect()
    if trim := getattr(LIBC, "malloc_trim", None):
        trim(0)

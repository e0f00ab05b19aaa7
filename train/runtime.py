"""How a command of this package runs: settings made before JAX starts its threads, and how it ends."""

import ctypes
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable

import jax

from data.command_line import run_main
from parallel import ends_together, has_accelerator, reserve_threads

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# What JAX tells of its compilation cache.
_REQUESTS, _HITS = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs an entry point; what goes wrong in one process ends it in all, each with a line that says where."""
    run_main(ends_together()(main))


def set_up(compile_cache: str) -> None:
    """Turns on the persistent compilation cache; on a machine without accelerator also keeps freed memory.

    Simulated devices are given the threads that they need.

    Args:
        compile_cache: directory; "" leaves the cache off. One that the environment names stays.
    """
    if compile_cache and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compile_cache))
    reserve_threads()
    if not has_accelerator():
        _keep_freed_memory()


class Stopwatch:
    """Since it was made: seconds, and where programs came from.

    Example:
        watch = Stopwatch()
        watch.said()  # "8.3 s; 5 of 21 programs from the compilation cache"
    """

    def __init__(self):
        self._began, self._before = time.perf_counter(), _cache_events().copy()

    def said(self) -> str:
        """What it shows, in a line."""
        there = _cache_events() - self._before
        return (
            f"{time.perf_counter() - self._began:.1f} s; "
            f"{there[_HITS]} of {there[_REQUESTS]} programs from the compilation cache"
        )


@functools.cache
def _cache_events() -> Counter[str]:
    """How often JAX told of each event; it counts from the first call on."""
    counted = Counter[str]()
    jax.monitoring.register_event_listener(lambda event, **kwargs: counted.update([event]))
    return counted


def _keep_freed_memory() -> None:
    """Tells glibc to keep the step's large buffers, instead of returning them and faulting in every page again.

    It works only if no other thread has allocated before. On 2 cores it took the step of configs/tiny.py from
    405 to 336 ms. The threshold is an int: above 2 GiB there is only -1, never, which larger steps need.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)

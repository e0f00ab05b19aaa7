"""When a process fails or dies: the others end too, each with a line that names it.

A process that raises says so to the others (`ends_together`). One that dies is noticed by the heartbeats of JAX's
coordination service, and sooner by collectives that break off; `watch` sees to it that what the service knows is said,
and that no process waits for one that will never come.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax

from .processes import Run, barrier, client, name_of, publish_once

LINGER = 2.0  # seconds that a failed process 0 stays, so that the others can still ask the service why


class _Fault:
    """What is known of the end of the run; there is one."""

    dead: set[int] | None = None
    failure = ""  # what a process that failed said
    ending = threading.Event()
    watches: list[threading.Thread] = []  # noqa: RUF012 - replaced whole, never changed


@contextlib.contextmanager
def ends_together() -> Iterator[None]:
    """Around a whole command: an error in one process ends all, each with a line that names where it came from."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if Run.place is None:
            raise
        _end_by(error)


def _end_by(error: BaseException) -> None:
    """Ends this process and the others; an ordinary exit would first wait for them."""
    known = isinstance(error, ValueError | OSError) and not isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, jax.errors.JaxRuntimeError):  # a collective fails first where a process died
        _Fault.ending.wait(Run.timeout_s + 5)  # the thread that watches ends this process meanwhile
    if not known or os.environ.get("PALMETTE_TRACEBACK"):
        traceback.print_exception(error)
    said = str(error) if known else f"{type(error).__name__}: {first_line(str(error))}"
    print(f"error: {said}", file=sys.stderr)
    assert Run.place is not None
    if not isinstance(error, TimeoutError):
        publish_once("failure", f"{Run.place.process_id} {first_line(said)}")
    _exit(2)


def _exit(status: int) -> None:
    """Leaves without the shutdown of JAX, which would wait for processes that will never come."""
    assert Run.place is not None
    sys.stdout.flush()
    sys.stderr.flush()
    if Run.place.process_id == 0:
        time.sleep(LINGER)
    os._exit(status)


def watch() -> None:
    """Starts to watch over the run that this process has just joined."""
    _notice_aborts()
    _Fault.watches = [threading.Thread(target=look, daemon=True) for look in (_watch_deaths, _watch_failures)]
    for thread in _Fault.watches:
        thread.start()
    atexit.register(_leave)  # runs before JAX's own


def _say_dead(dead: set[int]) -> None:
    names = ", ".join(name_of(i) for i in sorted(dead))
    print(
        f"error: {names} died or was silent for {Run.timeout_s} s (config.distributed.timeout_s); "
        f"{name_of(Run.place.process_id if Run.place else 0)} ends. The same command, on all workers, continues",
        file=sys.stderr,
        flush=True,
    )


def _watch_deaths() -> None:
    """Asks the service who lives; the answer comes once each process has asked or is dead."""
    assert Run.place is not None
    everyone = list(range(Run.place.num_processes))
    while not _Fault.ending.wait(min(1.0, Run.timeout_s / 10)):
        try:
            live = client().get_live_nodes(everyone)
        except Exception:  # this process ends, or the service is gone, which JAX reports
            return
        dead = set(everyone) - set(live)
        if dead and not _Fault.ending.is_set() and Run.place.process_id not in dead:
            _Fault.dead = dead
            _say_dead(dead)
            _exit(1)


def _watch_failures() -> None:
    """Waits for a process to say that it failed, which is sooner than its death is noticed."""
    assert Run.place is not None
    while not _Fault.ending.is_set():
        try:
            who, _, said = client().blocking_key_value_get("palmette/failure", 3_600_000).partition(" ")
        except Exception as error:
            if "DEADLINE_EXCEEDED" in str(error):
                continue
            return
        if said != "none" and int(who) != Run.place.process_id and not _Fault.ending.is_set():
            _Fault.failure = f"{name_of(int(who))} failed: {said}"
            print(f"error: {_Fault.failure}", file=sys.stderr, flush=True)
            time.sleep(LINGER / 4)  # the process that failed ends first, and is the one that a launcher shows
            _exit(1)
        return


def on_fault(*status: Any) -> None:
    """What JAX calls when process 0, and the service with it, is gone, or when this process was taken for dead."""
    if Run.place is None:
        return
    until = time.monotonic() + LINGER
    while time.monotonic() < until and not (_Fault.dead or _Fault.failure):  # the threads that watch are told as well
        time.sleep(0.05)
    if not (_Fault.dead or _Fault.failure):
        host, _, port = Run.place.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 2.0).close()
            print("error: JAX's message above says why this process ends", file=sys.stderr, flush=True)
        except OSError:
            _say_dead({0})
    _exit(1)


def _notice_aborts() -> None:
    """Calls `on_fault` when JAX ends the process.

    JAX (0.10.2 and 0.11.2) cannot hand the status of a fault to a Python callback and calls abort() instead, in a
    thread of its own; a C signal handler is the last that runs. Python's would never be called.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda signum: on_fault())
    _notice_aborts.keep = handler  # pyright: ignore[reportFunctionMemberAccess]
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _leave() -> None:
    """At an ordinary exit: all processes end together, and nobody is taken for dead."""
    if Run.place is None:
        return
    with contextlib.suppress(TimeoutError, jax.errors.JaxRuntimeError):
        barrier("end")
    _Fault.ending.set()
    ctypes.CDLL(None).signal(int(signal.SIGABRT), None)  # the handler is Python, which ends
    publish_once("failure", f"{Run.place.process_id} none")
    if Run.place.process_id == 0:
        _wait_until_alone()
    jax.distributed.shutdown()
    for thread in _Fault.watches:  # a thread within JAX when Python ends would crash it
        thread.join(5.0)


def _wait_until_alone() -> None:
    """The service ends with process 0, and would take the others with it that are not yet gone."""
    assert Run.place is not None
    everyone, until = list(range(Run.place.num_processes)), time.monotonic() + Run.timeout_s
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        while len(client().get_live_nodes(everyone)) > 1 and time.monotonic() < until:
            time.sleep(0.01)


def first_line(text: str) -> str:
    """As much of a message as fits in an error of one line."""
    return next(iter(text.strip().splitlines()), "no reason given")[:300]

"""What the processes of a run tell one another: named barriers, values, and whose turn it is.

The work is done by the coordination service of `jax.distributed`, which lives in process 0 and keeps a small table of
keys and values; this module turns its answers into errors that name processes and hosts. With a single process, each
function has nothing to wait for.
"""

import contextlib
import itertools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax

# The client of the coordination service has no public form yet.
from jax._src import distributed as _jax_distributed

from .place import Place

Value = TypeVar("Value")

_FOREVER = 7 * 24 * 3600.0  # seconds; a process that dies ends the wait


class Run:
    """What is known of the run that this process is part of; there is one, and `parallel.start` fills it in.

    Attributes:
        place: of this process; None is a single process.
        timeout_s: seconds for a barrier, and until a silent process is taken for dead.
        hosts: their names, in the order of the processes.
    """

    place: Place | None = None
    timeout_s = 0
    hosts: list[str] = []  # noqa: RUF012 - replaced whole, never changed
    counter = itertools.count()


def is_distributed() -> bool:
    """Whether `start` has joined this process with others."""
    return Run.place is not None


def name_of(index: int) -> str:
    """A process and its host, for people."""
    return f"process {index} on {Run.hosts[index]}" if Run.place else "this process"


def client() -> Any:
    """The coordination service, as JAX's own client of it; None before the start."""
    return _jax_distributed.global_state.client


def barrier(name: str, timeout_s: float | None = None) -> None:
    """Waits until all processes are here.

    Args:
        name: for the error; the same on all processes, and each may be used again.
        timeout_s: None is `config.distributed.timeout_s`.

    Raises:
        TimeoutError: it names the processes that did not come, and their hosts.
    """
    if Run.place is None:
        return
    seconds = Run.timeout_s if timeout_s is None else timeout_s
    try:
        client().wait_at_barrier(f"palmette/{name}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        missing = absent(str(error))
        if not missing:
            raise
        raise TimeoutError(
            f"barrier {name!r}: after {seconds:g} s {len(missing)} of {Run.place.num_processes} processes have not "
            f"come: {', '.join(name_of(i) for i in missing[:16])}"
        ) from None


def absent(message: str) -> list[int]:
    """The processes that the service misses, by its error of a barrier or of the start."""
    return sorted({int(i) for i in re.findall(r"^\s*(\d+)\s*$", message.partition("timed out task names:")[2], re.M)})


def exchange(name: str, value: str, timeout_s: float | None = None) -> list[str]:
    """Gives each process's value to all; returns them in the order of the processes.

    Raises:
        TimeoutError: as `barrier`.
    """
    if Run.place is None:
        return [value]
    folder = f"palmette/{name}/{next(Run.counter)}/"  # calls come in the same order everywhere
    client().key_value_set(f"{folder}{Run.place.process_id}", value)
    barrier(name, timeout_s)
    return [v for _, v in sorted((int(k.rsplit("/", 1)[1]), v) for k, v in client().key_value_dir_get(folder))]


def publish_once(key: str, value: str) -> None:
    """Tells all processes a value; the first that any of them publishes stays."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client().key_value_set(f"palmette/{key}", value)


def published(key: str) -> str:
    """The value of a key, "" as long as there is none; it does not wait."""
    try:
        return client().key_value_try_get(f"palmette/{key}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return ""
        raise


def in_turns(name: str, make: Callable[[], Value]) -> Value:
    """Calls `make` in process 0, then in one process of each other host, then in the rest.

    What is made in a folder is so made once where the hosts share it, and once a host where they do not. There is no
    time-out; a process that dies ends the wait.
    """
    if Run.place is None:
        return make()
    index = Run.place.process_id
    turn = 0 if index == 0 else 1 if Run.hosts.index(Run.hosts[index]) == index else 2
    result: list[Value] = []
    for now in range(3):
        if now == turn:
            result.append(make())
        barrier(f"{name} {now}", _FOREVER)
    return result[0]

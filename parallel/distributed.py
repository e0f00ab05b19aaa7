"""Several processes as one run: the start, named barriers, and one clear line when a process is gone.

The work is done by `jax.distributed`: its coordination service, which lives in process 0, lets processes find one
another, keeps a small table of keys and values, holds barriers and notices by heartbeats who died. This module
reads the config, and turns what the service reports into errors that name processes and hosts.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

# The coordination service's client and JAX's detection of clusters have no public form yet; only this file uses them.
from jax._src import distributed as _jax_distributed
from jax._src.clusters import ClusterEnv
from jax._src.lib import _jax

Value = TypeVar("Value")

# What `parallel.launch` tells its children; the fields of the config win.
COORDINATOR, NUM_PROCESSES, PROCESS_ID = "PALMETTE_COORDINATOR", "PALMETTE_NUM_PROCESSES", "PALMETTE_PROCESS_ID"
_FOREVER = 7 * 24 * 3600.0  # seconds; a process that dies ends the wait
_LINGER = 2.0  # seconds that a failed process 0 stays, so that the others can still ask the service why


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How this process finds the others.

    Attributes:
        coordinator: host of process 0; "" is what the launcher or the cluster says, or else a single process.
        port: of the coordination service on that host; 0 is JAX's choice.
        num_processes: of the run; 0 is what the launcher or the cluster says.
        process_id: of this process, from 0; -1 is what the launcher or the cluster says.
        num_devices: devices that all processes together must see; 0 is not checked.
        timeout_s: seconds for all to start, for a barrier, and until a silent process is taken for dead.
    """

    coordinator: str = ""
    port: int = 8476
    num_processes: int = 0
    process_id: int = -1
    num_devices: int = 0
    timeout_s: int = 180


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where this process stands among the others."""

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: list[int] | None = None


class _Run:
    """What is known of the run that this process is part of; there is one."""

    timeout_s = 0
    place: _Place | None = None  # None: a single process
    hosts: list[str] = []  # noqa: RUF012 - replaced whole, never changed
    dead: set[int] | None = None
    failure = ""  # what a process that failed said
    ending = threading.Event()
    counter = itertools.count()
    watches: list[threading.Thread] = []  # noqa: RUF012 - as hosts


def start(config: Any = None) -> None:
    """Joins the other processes of the run, if there are any; to be called before JAX makes a device.

    The place of this process comes from the config, or from `parallel.launch`, or from what JAX knows of Cloud TPU,
    GKE, Slurm and Open MPI. Where there is nothing of these, it does nothing.

    Args:
        config: a DistributedConfig, or a mapping with its keys; None is all defaults.

    Raises:
        ValueError: processes are missing after the time-out, or processes or devices are other than expected.

    Example:
        start(config.distributed)
    """
    if config is None:
        config = DistributedConfig()
    elif not isinstance(config, DistributedConfig):
        config = DistributedConfig(**{f.name: config[f.name] for f in dataclasses.fields(DistributedConfig)})
    if not jax.distributed.is_initialized():
        place = find_place(config)
        if place is not None and place.num_processes > 1:
            _join(place, config.timeout_s)
    _check_counts(config)


def find_place(config: DistributedConfig) -> _Place | None:
    """The place of this process by config, launcher or cluster; None without any.

    Raises:
        ValueError: some of it is known and some is not, or it is impossible.
    """
    if config.timeout_s < 1 or not 0 <= config.port < 65536:
        raise ValueError(
            f"config.distributed: timeout_s={config.timeout_s} must be at least 1, and port={config.port} from 0 to "
            "65535"
        )
    address = os.environ.get(COORDINATOR, "")
    if config.coordinator:
        address = config.coordinator if ":" in config.coordinator else f"{config.coordinator}:{config.port}"
    count = config.num_processes or int(os.environ.get(NUM_PROCESSES, 0)) or None
    index = config.process_id if config.process_id >= 0 else int(os.environ.get(PROCESS_ID, -1))
    index = None if index < 0 else index
    devices = None
    if count == 1:
        return None
    if not address or count is None or index is None:
        if config.port:
            os.environ.setdefault("JAX_COORDINATOR_PORT", str(config.port))
        found = ClusterEnv.auto_detect_unset_distributed_params(
            address or None, count, index, None, None, config.timeout_s
        )
        address, count, index, devices = found
        if count == 1 or (address, count, index) == (None, None, None):
            return None
        devices = None if _one_process_a_node() else devices
    if not address or count is None or index is None or not 0 <= index < count:
        raise ValueError(
            f"config.distributed: coordinator={address or ''!r}, num_processes={count}, process_id={index} do not make "
            "a place in a run; say all three (process_id from 0 to num_processes - 1), or none and start under Slurm, "
            "Open MPI, GKE, on a Cloud TPU, or with python -m parallel.launch"
        )
    return _Place(address, count, index, list(devices) if devices else None)


def _one_process_a_node() -> bool:
    """Whether Slurm or Open MPI started one process on each node; JAX would then show it one GPU of the node's."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE") or ""
    return bool(re.fullmatch(r"1(\(x\d+\))?", tasks)) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def _join(place: _Place, timeout_s: int) -> None:
    # JAX would catch SIGTERM for a purpose of its own; train.interrupt does that.
    jax.config.update("jax_enable_preemption_service", False)
    began = time.monotonic()
    make_client, make_service = _jax.get_distributed_runtime_client, _jax.get_distributed_runtime_service
    # With a callback a start that fails is an exception here; without, JAX ends the process with a stack trace.
    _jax.get_distributed_runtime_client = lambda *a, **k: make_client(*a, **k, missed_heartbeat_callback=_on_fault)
    # The service gives up before its clients do, so that they hear from it who is missing.
    _jax.get_distributed_runtime_service = lambda *a, **k: make_service(*a, **k, cluster_register_timeout=timeout_s)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            local_device_ids=place.local_device_ids,
            cluster_detection_method="deactivate",
            initialization_timeout=timeout_s + 5,
            heartbeat_timeout_seconds=timeout_s,
            shutdown_timeout_seconds=timeout_s,
        )
    except Exception as error:
        raise ValueError(_not_started(place, time.monotonic() - began, _give_up(str(error)))) from None
    finally:
        _jax.get_distributed_runtime_client, _jax.get_distributed_runtime_service = make_client, make_service
    _Run.place, _Run.timeout_s, _Run.hosts = place, timeout_s, [f"process {i}" for i in range(place.num_processes)]
    _Run.hosts = exchange("host", socket.gethostname())
    _notice_aborts()
    _Run.watches = [threading.Thread(target=watch, daemon=True) for watch in (_watch_deaths, _watch_failures)]
    for thread in _Run.watches:
        thread.start()
    atexit.register(_leave)  # runs before JAX's own


def _give_up(reason: str) -> str:
    """Drops the client and the service of a start that failed; what the service said."""
    state = _jax_distributed.global_state
    client, state.client = state.client, None
    if client is not None:
        try:
            client.shutdown()
        except Exception as error:  # it always says why it cannot
            reason = str(error)
    if state.service is not None:
        time.sleep(_LINGER)
        state.service.shutdown()
        state.service = None
    return reason


def _not_started(place: _Place, seconds: float, reason: str) -> str:
    """The one error of a start that failed: who is there, who is missing, and what to run."""
    n, me = place.num_processes, f"process {place.process_id} on {socket.gethostname()}"
    command = " ".join(["python", *sys.orig_argv[1:]])
    everywhere = (
        f"Run on every worker, with config.distributed.process_id or {PROCESS_ID} from 0 to {n - 1} where no launcher "
        f"sets it: {command}"
    )
    missing = [int(i) for i in re.findall(r"^\s*(\d+)\s*$", reason.partition("timed out task names:")[2], re.M)]
    if missing:
        missing = sorted(set(missing))
        return (
            f"only {n - len(missing)} of {n} processes started within {seconds:.0f} s (config.distributed.timeout_s); "
            f"missing: {_listed(missing)}; this is {me}. {everywhere}"
        )
    if place.process_id:
        return (
            f"{me} could not join {n} processes within {seconds:.0f} s: process 0 does not answer at "
            f"{place.coordinator} (config.distributed.coordinator and port; it must run, and a firewall must let the "
            f"port through). {everywhere}"
        )
    return f"{me} could not start {n} processes at {place.coordinator}: {_first_line(reason)}. {everywhere}"


def _listed(indices: list[int]) -> str:
    shown = ", ".join(f"process {i}" for i in indices[:16])
    return shown + (f" and {len(indices) - 16} more" if len(indices) > 16 else "")


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no reason given")[:300]


def _check_counts(config: DistributedConfig) -> None:
    """Checks that JAX sees the processes and devices that were expected.

    Raises:
        ValueError: it says what was seen, on which process.
    """
    expected = _Run.place.num_processes if _Run.place else config.num_processes or None
    if expected is None and not config.num_devices:
        return  # and no device is made
    seen = f"{jax.device_count()} devices ({jax.local_device_count()} of them here) in {jax.process_count()} processes"
    if _Run.place:
        counts = exchange("devices", str(jax.local_device_count()))
        seen += "; by process: " + ", ".join(f"{i} ({_Run.hosts[i]}) {n}" for i, n in enumerate(counts[:64]))
    if expected is not None and jax.process_count() != expected:
        raise ValueError(f"config.distributed expects {expected} processes, but JAX sees {seen}")
    if config.num_devices and jax.device_count() != config.num_devices:
        raise ValueError(
            f"config.distributed.num_devices={config.num_devices}, but JAX sees {seen}. Under Slurm, --ntasks-per-node "
            "with --gpus-per-task decides how many a process sees; one process a node sees all of the node's"
        )


def name_of(index: int) -> str:
    """A process and its host, for people."""
    return f"process {index} on {_Run.hosts[index]}" if _Run.place else "this process"


def _client() -> Any:
    return _jax_distributed.global_state.client


def barrier(name: str, timeout_s: float | None = None) -> None:
    """Waits until all processes are here.

    Args:
        name: for the error; the same on all processes, and each may be used again.
        timeout_s: None is `config.distributed.timeout_s`.

    Raises:
        TimeoutError: it names the processes that did not come, and their hosts.
    """
    if _Run.place is None:
        return
    seconds = _Run.timeout_s if timeout_s is None else timeout_s
    try:
        _client().wait_at_barrier(f"palmette/{name}", int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        tail = str(error).partition("timed out task names:")[2]
        missing = sorted({int(i) for i in re.findall(r"^\s*(\d+)\s*$", tail, re.M)})
        if not missing:
            raise
        raise TimeoutError(
            f"barrier {name!r}: after {seconds:g} s {len(missing)} of {_Run.place.num_processes} processes have not "
            f"come: {', '.join(name_of(i) for i in missing[:16])}"
        ) from None


def exchange(name: str, value: str, timeout_s: float | None = None) -> list[str]:
    """Gives each process's value to all; returns them in the order of the processes.

    Raises:
        TimeoutError: as `barrier`.
    """
    if _Run.place is None:
        return [value]
    folder = f"palmette/{name}/{next(_Run.counter)}/"  # calls come in the same order everywhere
    _client().key_value_set(f"{folder}{_Run.place.process_id}", value)
    barrier(name, timeout_s)
    return [v for _, v in sorted((int(k.rsplit("/", 1)[1]), v) for k, v in _client().key_value_dir_get(folder))]


def publish_once(key: str, value: str) -> None:
    """Tells all processes a value; the first that any of them publishes stays."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(f"palmette/{key}", value)


def published(key: str) -> str:
    """The value of a key, "" as long as there is none; it does not wait."""
    try:
        return _client().key_value_try_get(f"palmette/{key}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return ""
        raise


def is_distributed() -> bool:
    """Whether `start` has joined this process with others."""
    return _Run.place is not None


def in_turns(name: str, make: Callable[[], Value]) -> Value:
    """Calls `make` in process 0, then in one process of each other host, then in the rest.

    What is made in a folder is so made once where the hosts share it, and once a host where they do not. There is no
    time-out; a process that dies ends the wait.
    """
    if _Run.place is None:
        return make()
    index = _Run.place.process_id
    turn = 0 if index == 0 else 1 if _Run.hosts.index(_Run.hosts[index]) == index else 2
    result: list[Value] = []
    for now in range(3):
        if now == turn:
            result.append(make())
        barrier(f"{name} {now}", _FOREVER)
    return result[0]


@contextlib.contextmanager
def ends_together() -> Iterator[None]:
    """Around a whole command: an error in one process ends all, each with a line that names where it came from."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _Run.place is None:
            raise
        _end_by(error)


def _end_by(error: BaseException) -> None:
    """Ends this process and the others; an ordinary exit would first wait for them."""
    known = isinstance(error, ValueError | OSError) and not isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, jax.errors.JaxRuntimeError):  # a collective fails first where a process died
        _Run.ending.wait(_Run.timeout_s + 5)  # the thread that watches ends this process meanwhile
    if not known or os.environ.get("PALMETTE_TRACEBACK"):
        traceback.print_exception(error)
    said = str(error) if known else f"{type(error).__name__}: {_first_line(str(error))}"
    print(f"error: {said}", file=sys.stderr)
    assert _Run.place is not None
    if not isinstance(error, TimeoutError):
        publish_once("failure", f"{_Run.place.process_id} {_first_line(said)}")
    _exit(2)


def _exit(status: int) -> None:
    """Leaves without the shutdown of JAX, which would wait for processes that will never come."""
    assert _Run.place is not None
    sys.stdout.flush()
    sys.stderr.flush()
    if _Run.place.process_id == 0:
        time.sleep(_LINGER)
    os._exit(status)


def _say_dead(dead: set[int]) -> None:
    names = ", ".join(name_of(i) for i in sorted(dead))
    print(
        f"error: {names} died or was silent for {_Run.timeout_s} s (config.distributed.timeout_s); "
        f"{name_of(_Run.place.process_id if _Run.place else 0)} ends. The same command, on all workers, continues",
        file=sys.stderr,
        flush=True,
    )


def _watch_deaths() -> None:
    """Asks the service who lives; the answer comes once each process has asked or is dead."""
    assert _Run.place is not None
    everyone = list(range(_Run.place.num_processes))
    while not _Run.ending.wait(min(1.0, _Run.timeout_s / 10)):
        try:
            live = _client().get_live_nodes(everyone)
        except Exception:  # this process ends, or the service is gone, which JAX reports
            return
        dead = set(everyone) - set(live)
        if dead and not _Run.ending.is_set() and _Run.place.process_id not in dead:
            _Run.dead = dead
            _say_dead(dead)
            _exit(1)


def _watch_failures() -> None:
    """Waits for a process to say that it failed, which is sooner than its death is noticed."""
    assert _Run.place is not None
    while not _Run.ending.is_set():
        try:
            who, _, said = _client().blocking_key_value_get("palmette/failure", 3_600_000).partition(" ")
        except Exception as error:
            if "DEADLINE_EXCEEDED" in str(error):
                continue
            return
        if said != "none" and int(who) != _Run.place.process_id and not _Run.ending.is_set():
            _Run.failure = f"{name_of(int(who))} failed: {said}"
            print(f"error: {_Run.failure}", file=sys.stderr, flush=True)
            _exit(1)
        return


def _on_fault(*status: Any) -> None:
    """What the service calls when it knows of a fault."""
    if _Run.place is None:
        return
    until = time.monotonic() + _LINGER
    while time.monotonic() < until and not (_Run.dead or _Run.failure):  # the threads that watch are told as well
        time.sleep(0.05)
    if not (_Run.dead or _Run.failure):
        host, _, port = _Run.place.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 2.0).close()
            print("error: JAX's message above says which process is gone", file=sys.stderr, flush=True)
        except OSError:
            _say_dead({0})
    _exit(1)


def _notice_aborts() -> None:
    """Calls `_on_fault` when JAX ends the process.

    JAX (0.10.2 and 0.11.2) cannot hand the status of a fault to a Python callback and calls abort() instead, in a
    thread of its own; a C signal handler is the last that runs. Python's would never be called.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda signum: _on_fault())
    _notice_aborts.keep = handler  # pyright: ignore[reportFunctionMemberAccess]
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _leave() -> None:
    """At an ordinary exit: all processes end together, and nobody is taken for dead."""
    if _Run.place is None:
        return
    with contextlib.suppress(TimeoutError, jax.errors.JaxRuntimeError):
        barrier("end")
    _Run.ending.set()
    ctypes.CDLL(None).signal(int(signal.SIGABRT), None)  # the handler is Python, which ends
    publish_once("failure", f"{_Run.place.process_id} none")
    jax.distributed.shutdown()
    for thread in _Run.watches:  # a thread within JAX when Python ends would crash it
        thread.join(5.0)

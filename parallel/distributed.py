"""Several processes as one run: the start by `jax.distributed`, and the checks that all are there."""

import dataclasses
import os
import socket
import sys
import time
from typing import Any

import jax

# What makes the client and the service of the coordination has no public form yet.
from jax._src import distributed as _jax_distributed
from jax._src.lib import _jax

from .faults import LINGER, first_line, on_fault, watch
from .place import PROCESS_ID, DistributedConfig, Place, find_place
from .processes import Run, absent, exchange


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


def _join(place: Place, timeout_s: int) -> None:
    # JAX would catch SIGTERM for a purpose of its own; train.interrupt does that.
    jax.config.update("jax_enable_preemption_service", False)
    # The service would end every process when one dies, before `faults` can say which; so it only answers who lives.
    jax.config.update("jax_enable_recoverability", True)
    if place.process_id == 0:
        _check_port(place.coordinator)
    began = time.monotonic()
    make_client, make_service = _jax.get_distributed_runtime_client, _jax.get_distributed_runtime_service
    # With a callback a start that fails is an exception here; without, JAX ends the process with a stack trace.
    _jax.get_distributed_runtime_client = lambda *a, **k: make_client(*a, **k, missed_heartbeat_callback=on_fault)
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
    Run.place, Run.timeout_s, Run.hosts = place, timeout_s, [f"process {i}" for i in range(place.num_processes)]
    Run.hosts = exchange("host", socket.gethostname())
    watch()


def _check_port(coordinator: str) -> None:
    """Checks that the service can listen; JAX would crash where it cannot.

    Raises:
        ValueError: the port is taken.
    """
    port = coordinator.rpartition(":")[2]
    try:
        socket.create_server(("", int(port))).close()
    except OSError as error:
        raise ValueError(
            f"process 0 on {socket.gethostname()} cannot listen on port {port} for the other processes: "
            f"{os.strerror(error.errno or 0)}. It is perhaps another run's: choose another config.distributed.port for "
            "all processes"
        ) from None


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
        time.sleep(LINGER)
        state.service.shutdown()
        state.service = None
    return reason


def _not_started(place: Place, seconds: float, reason: str) -> str:
    """The one error of a start that failed: who is there, who is missing, and what to run."""
    n, me = place.num_processes, f"process {place.process_id} on {socket.gethostname()}"
    command = " ".join(["python", *sys.orig_argv[1:]])
    everywhere = (
        f"Run on every worker, with config.distributed.process_id or {PROCESS_ID} from 0 to {n - 1} where no launcher "
        f"sets it: {command}"
    )
    missing = absent(reason)
    if missing:
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
    return f"{me} could not start {n} processes at {place.coordinator}: {first_line(reason)}. {everywhere}"


def _listed(indices: list[int]) -> str:
    shown = ", ".join(f"process {i}" for i in indices[:16])
    return shown + (f" and {len(indices) - 16} more" if len(indices) > 16 else "")


def _check_counts(config: DistributedConfig) -> None:
    """Checks that JAX sees the processes and devices that were expected.

    Raises:
        ValueError: it says what was seen, on which process.
    """
    expected = Run.place.num_processes if Run.place else config.num_processes or None
    if expected is None and not config.num_devices:
        return  # and no device is made
    seen = f"{jax.device_count()} devices ({jax.local_device_count()} of them here) in {jax.process_count()} processes"
    if Run.place:
        counts = exchange("devices", str(jax.local_device_count()))
        seen += "; by process: " + ", ".join(f"{i} ({Run.hosts[i]}) {n}" for i, n in enumerate(counts[:64]))
    if expected is not None and jax.process_count() != expected:
        raise ValueError(f"config.distributed expects {expected} processes, but JAX sees {seen}")
    if config.num_devices and jax.device_count() != config.num_devices:
        raise ValueError(
            f"config.distributed.num_devices={config.num_devices}, but JAX sees {seen}. Under Slurm, --ntasks-per-node "
            "with --gpus-per-task decides how many a process sees; one process a node sees all of the node's"
        )

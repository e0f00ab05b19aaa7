"""Looks at the machine before a run does: devices, topology, versions, holders, the workdir, and rates.

python -m parallel.doctor --workdir gs://bucket/runs/first

Run it on every worker, or under `python -m parallel.launch`; process 0 prints for all. The exit status is 1 if
something is wrong, which is said in lines that begin with "WRONG".
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .distributed import start
from .faults import ends_together
from .mesh import has_accelerator
from .place import DistributedConfig
from .processes import exchange, name_of
from .shared import check_shared

_DEVICE_FILES = re.compile(r"/dev/(accel\d+|vfio/\d+|nvidia\d+)$")
_PACKAGES = ("palmette", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "libtpu")


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that has an accelerator open.

    Attributes:
        pid: its id.
        files: the devices.
        command: what it runs.
    """

    pid: int
    files: tuple[str, ...]
    command: str


def main(argv: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m parallel.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", help="a run's directory, which all processes should be able to write to")
    parser.add_argument("--timeout-s", type=int, default=60, help="for the other processes to start (60)")
    arguments = parser.parse_args(argv)
    problems: list[str] = []
    held = holders()
    try:
        start(DistributedConfig(timeout_s=arguments.timeout_s))
        devices = jax.devices()
    except (ValueError, RuntimeError) as error:
        return _cannot_start(error, held)
    with ends_together():
        for lines in (_devices(devices, problems), _versions(), _held(held, problems)):
            _print(lines)
        _print(_workdir(arguments.workdir, problems))
        _print(_measurements(devices, problems))
    # What one process found wrong, all say by their exit status.
    found = [problem for said in exchange("problems", json.dumps(problems)) for problem in json.loads(said)]
    _print(f"WRONG   {problem}" for problem in dict.fromkeys(found))
    _print([] if found else ["nothing wrong was found"])
    return 1 if found else 0


def _print(lines: Iterator[str] | Sequence[str]) -> None:
    """Every process makes the lines, for they may need all of them; one prints."""
    for line in lines:
        if jax.process_index() == 0:
            print(line, flush=True)


def _cannot_start(error: Exception, held: list[Holder]) -> int:
    problems: list[str] = []
    for line in [*_versions(), *_held(held, problems)]:
        print(line)
    for problem in [*problems, f"JAX does not start: {error}"]:
        print(f"WRONG   {problem}")
    return 1


def holders(proc: str | os.PathLike[str] = "/proc") -> list[Holder]:
    """The other processes on this machine that have a TPU or GPU open; those of other users only root sees."""
    found = []
    for folder in sorted(Path(proc).glob("[0-9]*"), key=lambda path: int(path.name)):
        files = set()
        try:
            for link in (folder / "fd").iterdir():
                if match := _DEVICE_FILES.match(os.readlink(link)):
                    files.add(match[0])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if files and int(folder.name) != os.getpid():
            found.append(Holder(int(folder.name), tuple(sorted(files)), command[:120]))
    return found


def _held(held: list[Holder], problems: list[str]) -> Iterator[str]:
    said = [f"{h.pid} ({h.command}) holds {', '.join(h.files)}" for h in held]
    problems += [f"process {line} on {platform.node()}" for line in said]
    if held:
        yield from (f"busy    process {line}" for line in said)
    elif has_accelerator():
        who = "no process" if os.geteuid() == 0 else "no process of this user; those of others only root sees,"
        yield f"busy    {who} holds the accelerator"
    else:
        yield "busy    there is no TPU or GPU device file to hold"


def _versions() -> Iterator[str]:
    packages = []
    for name in _PACKAGES:
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            packages.append(f"{name} not installed")
    cuda = sorted(
        f"{d.metadata['Name']} {d.version}"
        for d in importlib.metadata.distributions()
        if re.match(r"jax-cuda\d+-pjrt$|nvidia-(cudnn|nccl|cuda-runtime)", d.metadata["Name"] or "")
    )
    yield f"python  {platform.python_version()} on {platform.platform()}, {os.cpu_count()} CPU cores"
    yield f"version {', '.join([*packages, *(cuda or ['no CUDA packages'])])}"


def _devices(devices: Sequence[Any], problems: list[str]) -> Iterator[str]:
    kinds = sorted({device.device_kind for device in devices})
    yield f"devices {len(devices)} {devices[0].platform} ({', '.join(kinds)}) in {jax.process_count()} processes"
    if devices[0].platform == "cpu" and has_accelerator():
        problems.append(
            "an accelerator is here, but JAX runs on the CPU: install palmette[cuda] or palmette[tpu], unset "
            "JAX_PLATFORMS, or end the process that holds it"
        )
    hosts = exchange("doctor host", f"{platform.node()}, pid {os.getpid()}")
    for i, host in enumerate(hosts):
        own = [device for device in devices if device.process_index == i]
        shown = ", ".join(_place(device) for device in own[:8]) + (", ..." if len(own) > 8 else "")
        yield f"process {i} ({host}): {len(own)} devices: {shown}"
    counts = {sum(device.process_index == i for device in devices) for i in range(len(hosts))}
    if len(counts) > 1:
        problems.append(f"processes have different numbers of devices: {sorted(counts)}")


def _place(device: Any) -> str:
    """A device's id, and where it sits in the topology as far as the platform says."""
    facts = [
        f"{name} {getattr(device, name)}" for name in ("coords", "core_on_chip", "slice_index") if hasattr(device, name)
    ]
    return f"{device.id}" + (f" ({', '.join(facts)})" if facts else " (no coordinates)")


def _workdir(workdir: str | None, problems: list[str]) -> Iterator[str]:
    if not workdir:
        yield "workdir not looked at: say --workdir=DIR"
        return
    try:
        check_shared(epath.Path(workdir).expanduser())
        yield f"workdir {workdir} can be written to by all {jax.process_count()} processes, and is the same for them"
    except (ValueError, OSError) as error:
        problems.append(str(error))
        yield f"workdir {workdir}: see below"


def _measurements(devices: Sequence[Any], problems: list[str]) -> Iterator[str]:
    device, is_cpu = jax.local_devices()[0], devices[0].platform == "cpu"
    size = 512 if is_cpu else 8192
    for dtype in (jnp.float32, jnp.bfloat16):
        rate = _slowest(f"matmul {np.dtype(dtype).name}", matmul_rate(device, size, dtype) / 1e12)
        yield f"matmul  {np.dtype(dtype).name} {size} x {size} x {size}: {rate('TFLOP/s')}"
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    yield (
        f"memory  {limit / 2**30:.1f} GiB a device" if limit else f"memory  {_host_memory()}; the device tells no limit"
    )
    rate = _slowest("memory", copy_rate(device, (64 if is_cpu else 1024) << 20) / 1e9)
    yield f"memory  read and written at {rate('GB/s')}"
    if len(devices) == 1:
        yield "network not measured: all-reduce needs two devices"
        return
    rate = _slowest("all-reduce", all_reduce_rate(devices, (4 if is_cpu else 256) << 20) / 1e9)
    yield f"network all-reduce over {len(devices)} devices: bus bandwidth {rate('GB/s')}"


def _slowest(name: str, value: float) -> Callable[[str], str]:
    """Collects a figure from all processes; the result prints it with its unit, and the slowest process."""
    values = [float(said) for said in exchange(f"measured {name}", repr(value))]
    worst = min(range(len(values)), key=values.__getitem__)

    def shown(unit: str) -> str:
        others = f" (slowest: {name_of(worst)}, {values[worst]:.3g})" if len(values) > 1 else ""
        return f"{values[0]:.3g} {unit}{others}"

    return shown


def _seconds(fn: Callable[[Any], Any], x: Any, least: int = 3) -> float:
    """Shortest of a few calls, the first of which compiles and does not count."""
    fn(x).block_until_ready()
    times = []
    for _ in range(least):
        began = time.perf_counter()
        fn(x).block_until_ready()
        times.append(time.perf_counter() - began)
    return min(times)


def matmul_rate(device: Any, size: int, dtype: Any) -> float:
    """FLOP/s of a product of two square matrices on one device."""
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    return 2 * size**3 / _seconds(jax.jit(lambda x: x @ x), x)


def copy_rate(device: Any, num_bytes: int) -> float:
    """Bytes per second that one device reads and writes, both counted."""
    x = jax.device_put(jnp.zeros(num_bytes // 4, jnp.float32), device)
    return 2 * num_bytes / _seconds(jax.jit(lambda x: x + 1), x)


def bus_bandwidth(num_bytes: int, num_devices: int, seconds: float) -> float:
    """Bytes per second over each device's link: a ring all-reduce sends 2 (n - 1) / n of the array."""
    return 2 * (num_devices - 1) / num_devices * num_bytes / seconds


def all_reduce_rate(devices: Sequence[Any], num_bytes: int) -> float:
    """Bus bandwidth of an all-reduce over all devices of as many bytes on each."""
    mesh = Mesh(np.asarray(devices), ("all",))
    rows = NamedSharding(mesh, PartitionSpec("all"))
    length = num_bytes // 4
    x = jax.jit(lambda: jnp.ones((len(devices), length), jnp.float32), out_shardings=rows)()
    fn = jax.shard_map(
        lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=PartitionSpec("all"), out_specs=PartitionSpec(None)
    )
    return bus_bandwidth(num_bytes, len(devices), _seconds(jax.jit(fn), x))


def _host_memory() -> str:
    try:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
        return f"{kib['MemTotal'] / 2**20:.1f} GiB in this machine, {kib['MemAvailable'] / 2**20:.1f} GiB available"
    except (OSError, KeyError, IndexError, ValueError):
        return "this machine's memory is not known"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

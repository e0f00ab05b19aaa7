"""Compiles the exact step of a config for a machine that need not be here, and says what it takes.

    python -m train.compile --config configs/tiny.py --topology v5e:2x2 --config.mesh.fsdp=4

Nothing runs and no accelerator is needed, only its compiler: pip install 'palmette[tpu]' or 'palmette[cuda]'. The exit
status is 1 if the step does not fit. What is said of time is an estimate.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data.command_line import read_command_line
from parallel import Machine, make_mesh, parse_machine, topology_devices
from parallel.collectives import format_collectives

from .ahead import abstract_batch, compile_and_listen, lower_step
from .compiled import Reading, read_step
from .compose import preflight
from .depth import with_depth
from .device_memory import argument_bytes, memory_of_error
from .flops import step_work
from .initial import adopt
from .planning import with_plan
from .runtime import run_command
from .state import abstract_state
from .suitability import check_suits
from .words import axes_in_words, gib, machine_in_words

OPTIONS = {
    "topology": (None, "such as v5p:4x4x4, v5e:16x16, gpu:h100:8x16 or cpu:8"),
    "num_slices": (1, "TPU slices of that shape; config.mesh.num_slices must be the same"),
    "json": ("", "a file to write all of it to"),
    "collectives": (False, "list every collective, not only their sums"),
}


def main(argv: list[str]) -> int:
    """The command."""
    arguments = read_command_line(argv, "train.compile", __doc__ or "", options=OPTIONS)
    config: Any = arguments.config
    flags = arguments.flags
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here may be busy, and is not needed
    machine = parse_machine(flags["topology"], flags["num_slices"])
    reading = compile_step(config, machine)
    print("\n".join(report(config, reading, every=flags["collectives"])))
    if flags["json"]:
        Path(flags["json"]).expanduser().write_text(json.dumps(to_json(config, reading), indent=2) + "\n")
    return 0 if reading.memory.fits else 1


def mesh_of(config: Any, machine: Machine) -> Mesh:
    """The config's mesh on a machine, once all is checked that can be without a compiler.

    Raises:
        ValueError: the config is wrong, or is not for that machine; it names the keys and a legal choice.
    """
    mesh = make_mesh(config.mesh, devices=topology_devices(machine))
    check_suits(config)
    preflight(config, mesh)
    return mesh


def check_machine(config: Any, machine: Machine) -> None:
    """Checks that a config is for machines of this kind.

    Raises:
        ValueError: it names another platform.
    """
    if config.platform not in ("auto", machine.chip.platform):
        raise ValueError(
            f"config.platform={config.platform!r}, but --topology={machine.name} is {machine.chip.platform!r}; "
            f"use config.platform={machine.chip.platform!r} or 'auto'"
        )


def compile_step(config: Any, machine: Machine, *, log: Callable[[str], None] = print) -> Reading:
    """Compiles the train step of a config for a machine and reads what the compiler made of it.

    Args:
        config: the whole config; with `config.mesh.auto` it is planned for the machine, as at a run's start.
        machine: such as `parse_machine("v5p:4x4x4")`.
        log: called with the line that says what was planned.

    Returns:
        The reading. Of a step that does not fit, little more is known than that.

    Raises:
        ValueError: the config is wrong, is not for that machine, or the compiler is not installed.

    Example:
        compile_step(config, parse_machine("v5e:2x2")).memory.fits
    """
    check_machine(config, machine)
    config = with_plan(with_depth(adopt(config), log), log, machine=machine)
    mesh = mesh_of(config, machine)
    lowered = lower_step(config, mesh)
    began = time.perf_counter()
    try:
        compiled = compile_and_listen(lowered)
    except jax.errors.JaxRuntimeError as error:
        held = argument_bytes(abstract_state(config, mesh), abstract_batch(config, mesh))
        memory = memory_of_error(str(error), machine, arguments=held)
        if memory is None:
            raise
        tokens, flops = step_work(config)
        return Reading(machine, dict(mesh.shape), memory, tokens, flops, compile_s=time.perf_counter() - began)
    return read_step(config, machine, mesh, compiled, compile_s=time.perf_counter() - began)


def report(config: Any, reading: Reading, *, every: bool = False) -> list[str]:
    """Lines for people."""
    machine, memory = reading.machine, reading.memory
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    lines = [
        f"{config.name} on {machine_in_words(machine)}: {machine.num_devices} {machine.chip.kind} devices, "
        f"{axes_in_words(reading.mesh)}; compiled here in {reading.compile_s:.0f} s",
        "",
        f"Memory    {verdict}: needs {gib(memory.needed)} of {gib(memory.available)} a device, and is laid out in",
        *(f"          {name:<12}{gib(size):>12}" for name, size in parts_of(reading).items() if size),
        *(f"          largest: {line}" for line in memory.largest),
    ]
    if memory.by_compiler:
        return [*lines, "", "It was not compiled to its end, so there is nothing to say of its time."]
    lines += ["", "Network   (a step's collectives, those of loops once a round; bytes of one device)"]
    lines += [f"          {line}" for line in _network(reading)] or ["          none"]
    if every:
        lines += [f"          {line}" for line in format_collectives(list(reading.collectives)).splitlines()]
    lines += ["", "Time      an estimate, not a measurement (train/compiled.py says of what)"]
    lines += [f"          {line}" for line in _time(reading)]
    lines += ["", *(f"WARNING   {message}" for message in reading.messages)]
    return lines if reading.messages else lines[:-1]


def parts_of(reading: Reading) -> dict[str, int]:
    """The parts that memory is made of."""
    memory = reading.memory
    outputs = memory.outputs - memory.aliased
    parts = {"arguments": memory.arguments, "new outputs": outputs, "temporaries": memory.temporaries}
    return parts | {"on the host": memory.host}


def _network(reading: Reading) -> list[str]:
    rows = [
        f"{kind:<20}{'+'.join(axes):<20}{total.tensors:>8,} tensors {total.bytes / 1e9:>12,.3f} GB"
        for (kind, axes), total in sorted(reading.totals.items(), key=lambda item: -item[1].bytes)
    ]
    return rows


def _time(reading: Reading) -> list[str]:
    chip, machine = reading.machine.chip, reading.machine
    lines = []
    if reading.has_cycles:
        cycles, clock = reading.work.total_cycles, chip.clock_hz or 1.0
        lines.append(f"operations      {cycles / clock:10.4f} s   {cycles:,} cycles at {clock / 1e9:.2f} GHz")
        if reading.work.kernels:
            runs = sum(kernel.runs for kernel in reading.work.kernels)
            lines.append(f"kernels         {reading.kernels_s:10.4f} s   attention and experts on paper; {runs:,} runs")
    else:
        lines.append(f"operations      {reading.compute_s:10.4f} s   on paper: this compiler estimates no cycles")
    link = f"at {chip.interconnect_bandwidth / 1e9:,.0f} GB/s a device"
    lines.append(f"collectives     {reading.ici_s:10.4f} s   {link}")
    if reading.dcn_s:
        lines.append(f"between slices  {reading.dcn_s:10.4f} s   at {chip.dcn_bandwidth / 1e9:,.2f} GB/s a device")
    for name, seconds in (("serial", reading.serial_s), ("overlapped", reading.overlapped_s)):
        rate = reading.tokens / seconds
        lines.append(
            f"{name:<16}{seconds:10.4f} s   MFU {reading.mfu(seconds):.1%}, {rate:,.0f} tokens/s, "
            f"{rate / machine.num_devices:,.0f} a device"
        )
    lines += [f"a loop of unknown length was counted as one round: {name}" for name in reading.work.endless]
    return lines


def to_json(config: Any, reading: Reading) -> dict[str, Any]:
    """All of a reading, as JSON can say it."""
    machine = reading.machine
    bounds = {
        name: {"seconds": seconds, "mfu": reading.mfu(seconds), "tokens_per_second": reading.tokens / seconds}
        for name, seconds in (("serial", reading.serial_s), ("overlapped", reading.overlapped_s))
    }
    seconds = {name: getattr(reading, f"{name}_s") for name in ("compute", "attention", "ici", "dcn")}
    known = {} if reading.memory.by_compiler else {"estimated_seconds": seconds, "estimated_bounds": bounds}
    return {
        "config": config.name,
        "topology": machine.name,
        "num_slices": machine.num_slices,
        "num_devices": machine.num_devices,
        "mesh": reading.mesh,
        "fits": reading.memory.fits,
        "memory": dataclasses.asdict(reading.memory),
        "tokens_per_step": reading.tokens,
        "flops_per_step": reading.flops,
        "collectives": [
            {"kind": kind, "axes": list(axes), "tensors": total.tensors, "bytes": total.bytes}
            for (kind, axes), total in reading.totals.items()
        ],
        "estimated_cycles": reading.work.cycles,
        "kernels": [dataclasses.asdict(kernel) for kernel in reading.work.kernels],
        **known,
        "messages": list(reading.messages),
        "compile_seconds": reading.compile_s,
        "sources": list(machine.chip.sources),
    }


if __name__ == "__main__":
    run_command(main)

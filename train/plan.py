"""Plans a config for a machine that need not be here: mesh, microbatch, remat and attention, ranked.

python -m train.plan --config configs/llama3_8b.py --topology v5p:4x4x4 --out plans/llama3_8b

Everything is estimated from shapes and the hardware's peaks, and the best few are compiled; nothing is measured.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from etils import epath

from data.command_line import read_command_line
from parallel import parse_machine

from .candidates import Candidate
from .compile import to_json
from .compiled import Reading
from .layout import Layout
from .plan_compiled import compiled_candidate
from .plan_picture import draw_plan
from .plan_text import DAY, GIB, LABEL, budget_line, describe, parse_quantity, table, why_first, why_nothing_fits
from .planning import Plan, make_plan, overrides, parse_mesh
from .runtime import run_command
from .step_time import StepTime

OPTIONS = {
    "topology": (None, "v5e:16x16, v5p:4x4x4, v6e:8x8, v4:2x2x2, tpu7x:2x2x2, gpu:h100:8x16, gpu:h200:1, cpu:8"),
    "num_slices": (1, "TPU slices of that shape, which the data-centre network joins"),
    "mesh": ("", "only this one, such as data=4,fsdp=16, with the config's microbatch and remat"),
    "top": (5, "lines of the table"),
    "compile": (0, "how many of the best are compiled; their memory is then the compiler's"),
    "budget": ("", "tokens=15T: the days and chip-hours of so many tokens"),
    "out": ("", "directory for plan.json, plan.svg and override.txt"),
}


def main(argv: list[str]) -> int:
    """The command; exits with 1 if nothing fits."""
    argv = [argument.replace("--num-slices", "--num_slices", 1) for argument in argv]
    argv = [{"--no-compile": "--compile=0"}.get(argument, argument) for argument in argv]
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here may be busy, and is not needed
    arguments = read_command_line(argv, "train.plan", __doc__ or "", options=OPTIONS)
    flags, config = arguments.flags, arguments.config
    machine = parse_machine(flags["topology"], flags["num_slices"])
    tokens = parse_quantity(flags["budget"]) if flags["budget"] else 0.0
    mesh = parse_mesh(flags["mesh"], machine.num_devices) if flags["mesh"] else None
    plan = make_plan(config, machine, mesh=mesh)
    plan, compiled = compile_best(config, plan, flags["compile"])
    best = plan.best

    print(f"{config.name} on {machine.name}{f' x {machine.num_slices}' if machine.num_slices > 1 else ''}. {LABEL}.\n")
    print(table(plan, flags["top"]))
    print(f"\n{why_first(plan)}" if best.fits else f"\n{config.name}: {why_nothing_fits(config, plan)}")
    if best.fits:
        changed = overrides(config, best, machine)
        override = " ".join(f"--config.{key}={value}" for key, value in changed.items())
        print(f"Override: {override or 'none, the config says it already'}")
        if tokens:
            print(budget_line(best, machine, tokens))
    if flags["out"]:
        write(config, plan, flags["out"], top=flags["top"], tokens=tokens, compiled=compiled)
    return 0 if best.fits else 1


def compile_best(config: Any, plan: Plan, count: int) -> tuple[Plan, dict[Layout, Reading]]:
    """Compiles the first candidates, puts what the compiler says in the place of the estimates, and ranks them anew.

    Args:
        config: the whole config.
        plan: ranked.
        count: how many are compiled.

    Returns:
        The plan, and the compiler's readings.
    """
    said: dict[Layout, Reading] = {}
    first = []
    for one in plan.candidates[:count]:
        memory, reading = compiled_candidate(config, one, plan.machine)
        time = one.time if reading.memory.by_compiler else with_reading(one.time, reading)
        first.append(dataclasses.replace(one, memory=memory, time=time, fits=reading.memory.fits))
        said[one.layout] = reading
        print(f"compiled {describe(one)} in {reading.compile_s:.0f} s: {memory.total / GIB:.2f} GiB", flush=True)
    ranked = sorted((*first, *plan.candidates[count:]), key=lambda one: one.key)
    return dataclasses.replace(plan, candidates=tuple(ranked)), said


def with_reading(time: StepTime, reading: Reading) -> StepTime:
    """The bounds with the compiler's own: cycles of its operations, and the bytes that its collectives move."""
    return dataclasses.replace(
        time,
        compute=reading.compute_s,
        memory=min(time.memory, reading.compute_s),  # is in the cycles
        network=reading.network_s,
        waiting=0.0,  # so are the ticks in which a stage computes what is dropped
    )


def write(config: Any, plan: Plan, out: str, *, top: int, tokens: float, compiled: dict[Layout, Reading]) -> None:
    """Writes plan.json, plan.svg and override.txt."""
    directory = epath.Path(out).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    rows = [as_json(config, plan, one, compiled.get(one.layout)) for one in plan.candidates[:top]]
    result = {
        "label": LABEL,
        "config": config.name,
        "machine": plan.machine.name,
        "num_slices": plan.machine.num_slices,
        "chip_sources": list(plan.machine.chip.sources),
        "meshes": plan.num_meshes,
        "why": why_first(plan),
        "candidates": rows,
    }
    if tokens:
        result["budget"] = budget_line(plan.best, plan.machine, tokens)
    (directory / "plan.json").write_text(json.dumps(result, indent=1) + "\n")
    (directory / "override.txt").write_text("".join(f"--config.{k}={v}\n" for k, v in rows[0]["override"].items()))
    draw_plan(plan, f"{config.name} on {plan.machine.name}", Path(directory / "plan.svg"), top=top)


def as_json(config: Any, plan: Plan, one: Candidate, compiled: Reading | None) -> dict[str, Any]:
    """A candidate for programs to read; seconds and bytes."""
    time = one.time
    return {
        "mesh": one.layout.sizes,
        "microbatch_rows": one.layout.microbatch_rows,
        "remat": one.layout.remat,
        "attention": one.layout.attention,
        "fits": one.fits,
        "memory_bytes": round(one.memory.total),
        "usable_bytes": plan.machine.chip.usable_bytes,
        "memory_terms": {name: round(size) for name, size in one.memory.terms.items()},
        "figures_from": "compiler" if compiled else "estimate",
        "compiler": None if compiled is None else to_json(config, compiled),
        "fullest_at": one.memory.moment,
        "seconds": {"compute": time.compute, "memory": time.memory, "network": time.network},
        "seconds_by_axis": dict(time.by_axis),
        "seconds_overlapped": time.overlapped,
        "seconds_serial": time.serial,
        "mfu_overlapped": time.mfu,
        "mfu_serial": time.mfu_serial,
        "tokens_per_second": time.tokens_per_second,
        "tokens_per_day": time.tokens_per_second * DAY,
        "binds": time.binds,
        "override": overrides(config, one, plan.machine),
    }


if __name__ == "__main__":
    run_command(main)

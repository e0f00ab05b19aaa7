"""Plans a config for a machine that need not be here: mesh, microbatch, remat, attention and loss, ranked.

python -m train.plan --config configs/llama3_8b.py --topology v5p:4x4x4

Everything is estimated from shapes and the hardware's peaks, and the best few are compiled; nothing is measured.
"""

import json
from pathlib import Path
from typing import Any

import jax
from etils import epath

from data.command_line import read_command_line
from parallel import Machine, parse_machine, topology_devices

from .candidates import Candidate
from .compile import check_machine, to_json
from .depth import with_depth
from .initial import adopt
from .plan_changes import why_nothing_fits
from .plan_compiled import compile_best
from .plan_picture import draw_plan
from .plan_text import LABEL, budget_line, origin, parse_quantity, table, why_first
from .planning import Plan, make_plan, overrides, parse_mesh
from .runtime import run_command
from .suitability import check_suits
from .words import DAY, machine_in_words

OPTIONS = {
    "topology": (None, "v5e:16x16, v5p:4x4x4, v6e:8x8, v4:2x2x2, tpu7x:2x2x2, gpu:h100:8x16, gpu:h200:1, cpu:8"),
    "num_slices": (1, "TPU slices of that shape, which the data-centre network joins"),
    "mesh": ("", "only this one, such as data=4,fsdp=16, with the config's microbatch and remat"),
    "top": (5, "lines of the table"),
    "compile": (3, "how many of the best are compiled, which replaces their estimates; 0: none, in seconds"),
    "budget": ("", "tokens=15T: the days and chip-hours of so many tokens, estimated"),
    "out": ("plans/{config}_{machine}", "directory for plan.json, plan.svg and override.txt; --out= writes nothing"),
}


def main(argv: list[str]) -> int:
    """The command; exits with 1 if nothing fits."""
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here may be busy, and is not needed
    arguments = read_command_line(argv, "train.plan", __doc__ or "", options=OPTIONS)
    flags, config = arguments.flags, arguments.config
    machine = parse_machine(flags["topology"], flags["num_slices"])
    tokens = parse_quantity(flags["budget"]) if flags["budget"] else 0.0
    mesh = parse_mesh(flags["mesh"], machine.num_devices) if flags["mesh"] else None
    check_machine(config, machine)
    config = with_depth(adopt(config), print)
    check_suits(config)
    if flags["compile"] > 0:
        _check_compiler(machine)
    plan = make_plan(config, machine, mesh=mesh)
    if flags["compile"] > 0:
        plan = compile_best(config, plan, flags["compile"], log=lambda line: print(line, flush=True))
    best = plan.best

    print(f"{config.name} on {machine_in_words(machine)}. {LABEL}.\n")
    print(table(plan, flags["top"]))
    print(f"\n{why_first(plan)}" if best.fits else f"\n{config.name}: {why_nothing_fits(config, plan)}")
    if best.fits:
        changed = overrides(config, best, machine)
        override = " ".join(f"--config.{key}={value}" for key, value in changed.items())
        print(f"Override: {override or 'none, the config says it already'}")
        if tokens:
            print(budget_line(best, machine, tokens))
    if flags["out"]:
        write(config, plan, _directory(flags["out"], config.name, machine), top=flags["top"], tokens=tokens)
    return 0 if best.fits else 1


def _check_compiler(machine: Machine) -> None:
    """Finds out at once what would else be found after minutes.

    Raises:
        ValueError: there is no compiler for this machine; it says how to get it, or to do without.
    """
    try:
        topology_devices(machine)
    except ValueError as error:
        raise ValueError(f"{error}; or plan on paper alone, with --compile=0") from error


def _directory(out: str, name: str, machine: Machine) -> epath.Path:
    """Where a plan is written to."""
    where = machine.name.replace(":", "_") + (f"_{machine.num_slices}_slices" if machine.num_slices > 1 else "")
    return epath.Path(out.replace("{config}", name).replace("{machine}", where)).expanduser()


def write(config: Any, plan: Plan, directory: epath.Path, *, top: int, tokens: float) -> None:
    """Writes plan.json, override.txt and, where matplotlib is installed, plan.svg; it says where."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [as_json(config, plan, one) for one in plan.candidates[:top]]
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
    try:
        draw_plan(plan, f"{config.name} on {machine_in_words(plan.machine)}", Path(directory / "plan.svg"), top=top)
    except ValueError as error:
        print(f"No picture: {error}")
    print(f"Written to {directory}")


def as_json(config: Any, plan: Plan, one: Candidate) -> dict[str, Any]:
    """A candidate for programs to read; seconds and bytes."""
    time = one.time
    return {
        "mesh": one.layout.sizes,
        "microbatch_rows": one.layout.microbatch_rows,
        "remat": one.layout.remat,
        "attention": one.layout.attention,
        "context_attention": one.layout.context_attention if one.layout.context > 1 else "",
        "objective": one.objective,
        "fits": one.fits,
        "memory_bytes": round(one.memory.total),
        "usable_bytes": plan.machine.chip.usable_bytes,
        "memory_terms": {name: round(size) for name, size in one.memory.terms.items()},
        "figures_from": origin(one),
        "compiler": to_json(config, one.reading) if one.reading else None,
        "fullest_at": one.memory.moment,
        "seconds": {"compute": time.compute, "memory": time.hbm, "network": time.network},
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

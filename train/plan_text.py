"""A plan in words: the ranked table, why the first is first, what a budget takes, and what to do if nothing fits."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from parallel import Machine

from .candidates import HEADROOM, Candidate, Search
from .planning import Plan
from .workload import workload_of

GIB = 2**30
DAY = 86400
LABEL = "Estimates and bounds from the hardware's peaks, not measurements"


def describe(candidate: Candidate) -> str:
    """Its layout, in short."""
    layout = candidate.layout
    axes = " ".join(f"{axis}={size}" for axis, size in layout.sizes.items() if size > 1) or "one device"
    attention = "ring" if layout.is_ring else layout.attention
    return f"{axes}, rows={layout.microbatch_rows}, remat={layout.remat}, attention={attention}"


def table(plan: Plan, top: int) -> str:
    """The first candidates, one a line."""
    usable = plan.machine.chip.usable_bytes / GIB
    head = ("", "mesh, microbatch, remat", "fits", "HBM GiB", "step s", "if serial", "MFU", "if serial")
    head += ("tokens/s", "tokens/day", "binds")
    lines: list[tuple[str, ...]] = [head]
    for i, one in enumerate(plan.candidates[:top]):
        time = one.time
        lines.append(
            (
                f"{i + 1}",
                describe(one),
                "yes" if one.fits else "NO",
                f"{one.memory.total / GIB:.2f} of {usable:.2f}",
                f"{time.overlapped:.3g}",
                f"{time.serial:.3g}",
                f"{time.mfu:.1%}",
                f"{time.mfu_serial:.1%}",
                f"{time.tokens_per_second:,.0f}",
                quantity(time.tokens_per_second * DAY),
                time.binds,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def why_first(plan: Plan) -> str:
    """One sentence."""
    best, time = plan.best, plan.best.time
    if not best.fits:
        return f"Nothing fits: the first needs {best.memory.total / GIB:.1f} GiB a chip."
    others = {"compute": time.compute, "HBM": time.memory, "network": time.network}
    said = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in others.items())
    sentence = f"{_axes(best)} is first because it is bound by {_NAMES[time.binds]} ({said})"
    if len(plan.candidates) > 1 and plan.candidates[1].fits:
        second = plan.candidates[1].time
        slower = (second.overlapped + second.serial) / (time.overlapped + time.serial) - 1
        extra = {name: getattr(second, name) - getattr(time, name) for name in ("compute", "memory", "network")}
        most = max(extra, key=lambda name: extra[name])
        sentence += f"; the next mesh, {_axes(plan.candidates[1])}, is {slower:.1%} slower"
        sentence += f" for {_NAMES[most]}, which takes {extra[most]:.3g} s more" if extra[most] > 0 else ""
    return sentence + "."


_NAMES = {"compute": "compute", "memory": "HBM bandwidth", "network": "the network"}


def _axes(candidate: Candidate) -> str:
    return " ".join(f"{axis}={n}" for axis, n in candidate.layout.sizes.items() if n > 1) or "one device"


def parse_quantity(text: str) -> float:
    """A number of tokens such as "15T" or "300e9".

    Raises:
        ValueError: it is none.
    """
    name, _, value = text.partition("=")
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(value[-1:].upper(), 1.0)
    try:
        number = float(value[:-1] if factor > 1 else value) * factor
    except ValueError:
        number = math.nan
    if name != "tokens" or not number > 0:
        raise ValueError(f"--budget={text} is not understood; write --budget=tokens=15T, or 300B, or 2e12")
    return number


def quantity(number: float) -> str:
    """As people write it: 1.2T."""
    for letter, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:,.0f}"


def budget_line(candidate: Candidate, machine: Machine, tokens: float) -> str:
    """Days and chip-hours of a number of tokens, if the network is hidden and if it is not."""
    days = [
        tokens * seconds / candidate.time.tokens / DAY for seconds in (candidate.time.overlapped, candidate.time.serial)
    ]
    hours = [f"{24 * n * machine.num_chips:,.0f}" for n in days]
    return (
        f"{quantity(tokens)} tokens take at least {days[0]:.3g} days, {hours[0]} chip-hours ({days[1]:.3g} days, "
        f"{hours[1]} chip-hours if nothing overlaps with the network), at the peak of every chip."
    )


def why_nothing_fits(config: Any, plan: Plan) -> str:
    """What is largest, and which changes, one after the other, would make it fit."""
    best, usable = plan.best, plan.machine.chip.usable_bytes
    largest = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in [*best.memory.terms.items()][:4])
    lines = [
        f"nothing fits {plan.machine.name}: the smallest, {describe(best)}, needs an estimated "
        f"{best.memory.total / GIB:.2f} GiB of {usable / GIB:.2f} a chip (of which {HEADROOM:.0%} may be planned). "
        f"Largest: {largest}."
    ]
    for said, needed, fits in changes(config, plan.machine):
        lines.append(f"then {said}: {needed / GIB:.2f} GiB" + (", which fits." if fits else ""))
        if fits:
            return "\n".join(lines)
    return "\n".join([*lines, "These are not enough; choose a larger machine or a smaller model."])


def changes(config: Any, machine: Machine) -> Iterator[tuple[str, float, bool]]:
    """Changes from the least to the most that they cost, each on top of those before: its name, bytes, whether it fits.

    First what leaves the model as it is, then shorter rows, and more chips last.
    """
    config = config.copy_and_resolve_references()
    config.unlock()
    config.data.batch_ramp = ""  # which a batch of another size need not suit; the last, largest one is what must fit
    devices = machine.num_devices
    steps: list[tuple[str, Any]] = [("model.dtype", "bfloat16"), ("mesh.rules", "zero3")]
    if config.data.batch_size % devices:
        steps.append(("data.batch_size", max(1, round(config.data.batch_size / devices)) * devices))
    steps += [("data.seq_len", config.data.seq_len // 2), ("data.seq_len", config.data.seq_len // 4)]
    for key, value in steps:
        section, _, name = key.partition(".")
        if config[section][name] == value:
            continue
        config[section][name] = value
        if found := _smallest(config, machine):
            yield f"config.{key}={value}", *found
    for times in (2, 4, 8, 16):
        larger = dataclasses.replace(machine, shape=(machine.shape[0] * times, *machine.shape[1:]))
        said = f"{times} times the chips, {larger.num_chips}"
        if config.data.batch_size % larger.num_devices:
            config.data.batch_size = math.ceil(config.data.batch_size / larger.num_devices) * larger.num_devices
            said += f", with config.data.batch_size={config.data.batch_size}"
        if found := _smallest(config, larger):
            yield said, *found


def _smallest(config: Any, machine: Machine) -> tuple[float, bool] | None:
    """Bytes of the smallest layout, and whether it fits; None if no mesh is legal."""
    search = Search(config, workload_of(config), machine)
    found = search.smallest()
    return found and (found[1].total, found[1].total <= search.limit)

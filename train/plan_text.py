"""A plan in words: the ranked table, why the first is first, and what a budget takes."""

import math

from parallel import Machine

from .candidates import Candidate
from .planning import Plan
from .words import DAY, GIB, axes_in_words, quantity

LABEL = "Estimates and bounds from the hardware's peaks, not measurements"


def describe(candidate: Candidate) -> str:
    """Its layout, in short."""
    layout = candidate.layout
    attention = "ring" if layout.is_ring else layout.attention
    attention += " after all-to-all" if layout.context > 1 and not layout.is_ring else ""
    _, has_chunk, chunk = candidate.objective.partition("chunk=")
    loss = f", loss in chunks of {chunk}" if has_chunk else ""
    axes = axes_in_words(layout.sizes)
    return f"{axes}, rows={layout.microbatch_rows}, remat={layout.remat}, attention={attention}{loss}"


def table(plan: Plan, top: int) -> str:
    """The first candidates, one a line."""
    usable = plan.machine.chip.usable_bytes / GIB
    head = ("", "mesh, microbatch, remat", "fits", "HBM GiB", "step s", "if serial", "MFU", "if serial")
    head += ("tokens/s", "tokens/day", "binds", "from")
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
                origin(one),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def origin(candidate: Candidate) -> str:
    """Where its figures are from."""
    return "compiler" if candidate.reading else "estimate"


def why_first(plan: Plan) -> str:
    """One sentence."""
    best, time = plan.best, plan.best.time
    if not best.fits:
        of = "by the compiler's word" if best.reading else "by an estimate"
        return f"Nothing fits: the first needs {best.memory.total / GIB:.1f} GiB a chip, {of}."
    others = {"compute": time.compute, "HBM": time.hbm, "network": time.network}
    said = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in others.items())
    of = "compiled" if best.reading else "estimated"
    sentence = f"{axes_in_words(best.layout.sizes)} is first because it is bound by {_NAMES[time.binds]} ({of}: {said})"
    # What is compiled is not compared with what is estimated: estimates are the more hopeful.
    if len(plan.candidates) > 1 and plan.candidates[1].fits and origin(plan.candidates[1]) == origin(best):
        second = plan.candidates[1].time
        slower = (second.overlapped + second.serial) / (time.overlapped + time.serial) - 1
        extra = {name: getattr(second, name) - getattr(time, name) for name in ("compute", "hbm", "network")}
        most = max(extra, key=lambda name: extra[name])
        sentence += f"; the next mesh, {axes_in_words(plan.candidates[1].layout.sizes)}, is {slower:.1%} slower"
        sentence += f" for {_NAMES[most]}, which takes {extra[most]:.3g} s more" if extra[most] > 0 else ""
    return sentence + "."


_NAMES = {"compute": "compute", "memory": "HBM bandwidth", "hbm": "HBM bandwidth", "network": "the network"}


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


def budget_line(candidate: Candidate, machine: Machine, tokens: float) -> str:
    """Days and chip-hours of a number of tokens, if the network is hidden and if it is not."""
    days = [
        tokens * seconds / candidate.time.tokens / DAY for seconds in (candidate.time.overlapped, candidate.time.serial)
    ]
    hours = [f"{24 * n * machine.num_chips:,.0f}" for n in days]
    return (
        f"{quantity(tokens)} tokens take at least an estimated {days[0]:.3g} days, {hours[0]} chip-hours "
        f"({days[1]:.3g} days, {hours[1]} chip-hours if nothing overlaps with the network); it is not measured."
    )

"""A plan as a picture: memory by terms beside what there is, and the three times beside one another."""

from pathlib import Path

from .plan_text import LABEL, describe, origin
from .planning import Plan
from .words import GIB


def draw_plan(plan: Plan, title: str, output: str | Path, *, top: int = 5) -> None:
    """Draws the first candidates.

    Args:
        plan: the plan.
        title: above it.
        output: an .svg, .png or .pdf.
        top: how many candidates.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        matplotlib.rcParams["svg.hashsalt"] = "palmette"  # the same plan gives the same file
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install 'palmette[plot]'") from error
    shown = plan.candidates[:top]
    names = [f"{describe(one)} ({origin(one)})".replace(", attention", ",\nattention") for one in shown]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 1.8 + 0.7 * len(shown)), layout="constrained", sharey=True)
    start = [0.0] * len(shown)
    for term in dict.fromkeys(term for one in shown for term in one.memory.terms):
        sizes = [one.memory.terms.get(term, 0.0) / GIB for one in shown]
        left.barh(names, sizes, left=start, label=term)
        start = [a + b for a, b in zip(start, sizes, strict=True)]
    left.axvline(plan.machine.chip.usable_bytes / GIB, color="black", linestyle="--", linewidth=1)
    left.set_xlabel("GiB a chip; dashed: usable")
    left.legend(fontsize=6, loc="lower right")
    for i, name in enumerate(("compute", "memory", "network")):
        seconds = [getattr(one.time, name) for one in shown]
        right.barh([j + (i - 1) * 0.27 for j in range(len(shown))], seconds, height=0.25, label=name)
    right.set_xlabel("seconds of a step, each by itself")
    right.legend(fontsize=7)
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=7)
    figure.suptitle(f"{title}. {LABEL}.", fontsize=9)
    figure.savefig(output, metadata={"Date": None} if str(output).endswith(".svg") else None)
    plt.close(figure)

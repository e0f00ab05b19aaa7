"""What each option of `parallel/compiler_options.py` gains: a step, compiled without, and with one after another.

    JAX_PLATFORMS=cpu python -m tests.bench.compiler_options [v5e:2x4 ...]

A compile takes a minute. It writes tests/bench/results/compiler-options.json and docs/compiler-options.md after each.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

from parallel import parse_machine
from parallel.compiler_options import OPTIONS
from tests.bench.pods import config_of
from tests.bench.results import ROOT, save
from train.compile import compile_step

CONFIG = "gpt2_1b5_v5e_8"
MACHINES = ("v5e:2x4", "v5p:2x2x2", "v6e:2x4")
PATH = ROOT / "tests" / "bench" / "results" / "compiler-options.json"
PACKAGES = ("jax", "jaxlib", "libtpu")


def row_of(topology: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the compiler says of the step with some options."""
    machine = parse_machine(topology)
    with mock.patch.dict(OPTIONS, {machine.chip.name: options}):
        reading = compile_step(config_of(CONFIG), machine)
    row = {"topology": topology, "options": options, "fits": reading.memory.fits, "needed": reading.memory.needed}
    moved = {kind: sum(t.bytes for (k, _), t in reading.totals.items() if k == kind) for kind, _ in reading.totals}
    row |= {"cycles": reading.work.total_cycles, "moved": moved, "serial_s": reading.serial_s}
    return row | {"mfu": reading.mfu(reading.overlapped_s), "mfu_serial": reading.mfu(reading.serial_s)}


def main(topologies: Sequence[str] = ()) -> None:
    """Compiles what is named, or all; rows of other machines stay."""
    rows = json.loads(PATH.read_text())["rows"] if PATH.exists() else []
    for topology in topologies or MACHINES:
        rows = [row for row in rows if row["topology"] != topology]
        options: dict[str, Any] = {}
        for name, value in [("", 0), *OPTIONS[parse_machine(topology).chip.name].items()]:
            options |= {name: value} if name else {}
            rows.append(row_of(topology, dict(options)))
            save("compiler-options", rows, markdown(rows), packages=PACKAGES, done="Compiled")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The page for the docs."""
    lines = [
        "# Options of the compilers",
        "",
        "The step of GPT-2, 1.5 billion parameters, on eight chips (`configs/gpt2_1b5_v5e_8.py`), compiled ahead of",
        "time without the options of `parallel/compiler_options.py`, and with one after another. Cycles are the",
        "compiler's own estimate; nothing was measured.",
        "",
        "| machine | options | cycles, millions | of those without | collective-permute GB | MFU bound, overlapped / "
        "serial | GiB a chip |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    first = {row["topology"]: row["cycles"] for row in rows if not row["options"]}
    for row in rows:
        named = [f"`{name}={value}`" for name, value in row["options"].items()]
        lines.append(
            f"| {row['topology']} | {'+ ' + named[-1] if named else 'none'} | {row['cycles'] / 1e6:,.0f} | "
            f"{row['cycles'] / first[row['topology']]:.2f} | {row['moved'].get('collective-permute', 0) / 1e9:.1f} | "
            f"{row['mfu']:.1%} / {row['mfu_serial']:.1%} | {row['needed'] / 2**30:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])

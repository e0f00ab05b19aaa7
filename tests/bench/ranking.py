"""Whether what is best on paper is best for the compiler too: every candidate of five small cases, compiled.

    JAX_PLATFORMS=cpu python -m tests.bench.ranking [CASE ...]

It writes tests/bench/results/ranking.json and docs/ranking.md, after each candidate, and a candidate whose
program the JSON has already is not compiled again. Nothing runs. A candidate takes some ten seconds to compile.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from configs import base
from parallel import Machine, parse_machine
from parallel.collectives import Collective
from parallel.cycles import Work
from parallel.hlo import ArrayShape
from tests.bench.results import ROOT, key_of_step, save
from train.candidates import Candidate
from train.compile import compile_step
from train.compiled import Reading
from train.device_memory import CompiledMemory
from train.layout import Layout
from train.plan_compiled import compiled_candidate
from train.plan_text import describe
from train.planning import make_plan, with_overrides
from train.words import GIB


class Case(NamedTuple):
    """What is planned.

    Attributes:
        topology: of the machine.
        num_slices: of it.
        changes: of `small`.
        why: what it is there for.
    """

    topology: str
    num_slices: int
    changes: dict[str, Any]
    why: str


# A number of layers that is odd has no pipeline of two or four stages, whose candidates would be too many.
SHORT = {"data.seq_len": 512, "data.batch_size": 8}  # what takes the compiler longest is large arrays
CASES = {
    "dense": Case("v5e:2x2", 1, {}, "the plain one"),
    "tight": Case(
        "v5e:2x2",
        1,
        SHORT | {"model.num_layers": 15, "model.d_model": 2048, "model.num_heads": 16, "model.d_mlp": 8192},
        "memory makes the choice: 1.1 billion parameters, of which a chip holds no whole copy with its moments",
    ),
    "long": Case(
        "v5p:2x2x1", 1, {"data.seq_len": 8192, "data.batch_size": 2}, "two rows of 8,192 tokens for four chips"
    ),
    "experts": Case(
        "v6e:2x2",
        1,
        SHORT | {"model.num_experts": 8, "model.d_mlp": 2048, "model.expert_capacity": 1.25},
        "two of eight experts for each token",
    ),
    "slices": Case(
        "v5e:2x2", 2, {"data.batch_size": 4, "model.num_kv_heads": 2}, "two slices, and rows for half of the chips"
    ),
}
PATH = ROOT / "tests" / "bench" / "results" / "ranking.json"
PACKAGES = ("jax", "jaxlib", "libtpu")


def small(changes: dict[str, Any]) -> Any:
    """A model of some 0.1 billion parameters in three layers."""
    config = base.get_config()
    config.name = "small"
    config.model.update(num_layers=3, d_model=1024, num_heads=8, num_kv_heads=4, d_mlp=4096, head_dim=128)
    config.model.update(activation="swiglu", dtype="bfloat16", tie_embeddings=False)
    config.data.update(vocab_size=32_000, seq_len=1024, batch_size=64)
    config.update_from_flattened_dict(changes)
    return config


def figures(one: Candidate) -> dict[str, Any]:
    """Of a candidate; seconds and bytes."""
    time = one.time
    return {
        "seconds": one.seconds,
        "overlapped": time.overlapped,
        "serial": time.serial,
        "binds": time.binds,
        "memory": one.memory.total,
        "fits": one.fits,
    }


def raw(reading: Reading) -> dict[str, Any]:
    """What is kept of a reading: all that a plan takes from it."""
    memory = reading.memory
    return {
        "memory": [memory.available, memory.needed, memory.arguments, memory.by_compiler],
        "cycles": reading.work.total_cycles,
        "kernels_s": reading.kernels_s,
        "collectives": [[one.kind, list(one.axes), one.bytes * one.runs] for one in reading.collectives],
    }


def reading_of(kept: dict[str, Any], machine: Machine, layout: Layout) -> Reading:
    """The reading of which that was kept."""
    available, needed, arguments, by_compiler = kept["memory"]
    memory = CompiledMemory(available, needed, arguments, by_compiler=by_compiler)
    moved = tuple(
        Collective(kind, (ArrayShape("u8", (size,)),), (), tuple(axes), (), "")
        for kind, axes, size in kept["collectives"]
    )
    work = Work({"all": kept["cycles"]})
    return Reading(machine, layout.sizes, memory, 0, 0, moved, work, attention_s=kept["kernels_s"])


def rank(name: str, case: Case, kept: dict[str, Any], keep: Any) -> dict[str, Any]:
    """Compiles all candidates of a case that are not kept; `keep` is called with what is known after each."""
    config, machine = small(case.changes), parse_machine(case.topology, case.num_slices)
    plan = make_plan(config, machine)
    there = {one["key"]: one["raw"] for one in kept.get("candidates", [])}
    row: dict[str, Any] = {"name": name, **case._asdict(), "num_candidates": len(plan.candidates), "candidates": []}
    for one in plan.candidates:
        said = with_overrides(config, one, machine)
        key = key_of_step(said, machine)
        found = there[key] if key in there else raw(compile_step(said, machine))
        compiled = compiled_candidate(one, reading_of(found, machine, one.layout), config.mesh.slice_axes)
        figured = {"estimate": figures(one), "compiled": figures(compiled)}
        row["candidates"].append({"what": describe(one), "key": key, **figured, "raw": found})
        keep(row)
    return row


def verdict(row: dict[str, Any]) -> tuple[int, float]:
    """Which candidate the compiler finds best, and how much slower by its word the one is that is best on paper.

    What does not fit by the compiler's word is passed over, as `train.plan` does.
    """
    fitting = [i for i, one in enumerate(row["candidates"]) if one["compiled"]["fits"]]
    seconds = {i: row["candidates"][i]["compiled"]["seconds"] for i in fitting}
    best = min(fitting, key=lambda i: seconds[i])
    return best, seconds[fitting[0]] / seconds[best] - 1


def main(names: Sequence[str] = ()) -> None:
    """Ranks the cases, or those that are named."""
    kept = json.loads(PATH.read_text())["rows"] if PATH.exists() else []
    rows = {row["name"]: row for row in kept}

    def keep(row: dict[str, Any]) -> None:
        rows[row["name"]] = row
        print(row["name"], len(row["candidates"]), row["candidates"][-1]["what"], flush=True)
        save("ranking", list(rows.values()), markdown(list(rows.values())), packages=PACKAGES, done="Compiled")

    for name in names or CASES:
        keep(rank(name, CASES[name], rows.get(name, {}), keep))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The page for the docs."""
    complete = [row for row in rows if len(row["candidates"]) == row["num_candidates"]]
    near = [row for row in complete if verdict(row)[1] <= 0.1]
    lines = [
        "# The ranking on paper, and the compiler's",
        "",
        "Small cases of which every candidate was compiled: the best layout of each legal mesh. A step's time is",
        "half-way between its two bounds (`train/candidates.py`), on paper by `train/step_time.py`, compiled by the",
        "compiler's cycles and the bytes of its collectives on the links of their axes (`train/plan_compiled.py`). All",
        f"of it is estimated. In {len(near)} of {len(complete)} cases the first on paper is within 10% of the best.",
        "",
        "| case | machine | candidates | first on paper | compiled ms | the compiler's best | ms | slower by | its "
        "place on paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in complete:
        best, slower = verdict(row)
        all_ = row["candidates"]
        first = next(one for one in all_ if one["compiled"]["fits"])
        machine = row["topology"] + (f" x {row['num_slices']}" if row["num_slices"] > 1 else "")
        lines.append(
            f"| {row['name']} | {machine} | {len(all_)} | {first['what']} | {_ms(first['compiled'])} | "
            f"{all_[best]['what']} | {_ms(all_[best]['compiled'])} | {slower:.1%} | {best + 1} |"
        )
    for row in complete:
        lines += ["", f"## {row['name']}", "", f"On {row['topology']}: {row['why']}.", ""]
        lines += ["| | layout | ms on paper | compiled | GiB on paper | compiled | binds |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for i, one in enumerate(row["candidates"]):
            paper, said = one["estimate"], one["compiled"]
            fits = "" if said["fits"] else ", DOES NOT FIT"
            lines.append(
                f"| {i + 1} | {one['what']} | {_ms(paper)} | {_ms(said)} | {paper['memory'] / GIB:.2f} | "
                f"{said['memory'] / GIB:.2f}{fits} | {said['binds']} |"
            )
    return "\n".join(lines) + "\n"


def _ms(figures: dict[str, Any]) -> str:
    return f"{1000 * figures['seconds']:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])

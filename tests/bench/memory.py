"""How far the memory on paper is from the compiler's, case by case, with the terms of the estimate.

    JAX_PLATFORMS=cpu python -m tests.bench.memory

It writes tests/bench/results/memory.json and docs/memory.md. Nothing runs, so figures are exact; a case takes a minute
or two to compile, and one that is in the JSON already, with these versions, is not compiled again.
"""

import importlib.metadata
import json
from typing import Any

from tests.bench.results import ROOT, save
from tests.test_tpu_memory import CASES, Case, compiled, estimate

PLAIN = {"model.attention": "plain"}
MORE: tuple[Case, ...] = (
    ("v5p", {"fsdp": 4}, {"model.remat": "none", **PLAIN}),
    ("v5p", {"data": 4}, {"model.remat": "dots", "data.seq_len": 2048, "data.batch_size": 8, **PLAIN}),
    ("v5p", {"tensor": 4}, {"model.remat": "full", "data.batch_size": 8, **PLAIN}),
    ("v5p", {"fsdp": 2, "tensor": 2}, {"model.remat": "projections", **PLAIN}),
    ("v5e", {"fsdp": 4}, {"model.remat": "full", **PLAIN}),
    ("v5e", {"data": 4}, {"model.remat": "projections", "model.num_layers": 4}),
    ("v5p", {"fsdp": 4}, {"model.remat": "none", "data.seq_len": 2048, "train.microbatch_rows": 2}),
    ("v5p", {"context": 4}, {"model.remat": "full", "data.seq_len": 4096, "data.batch_size": 4}),
    ("v5p", {"stage": 4}, {"model.remat": "full", "train.microbatch_rows": 1, "data.seq_len": 2048}),
    ("v5p", {"expert": 4}, {"model.remat": "full", "model.num_experts": 4, "model.d_mlp": 2048}),
    ("v6e", {"fsdp": 2, "tensor": 2}, {"model.remat": "full", "train.microbatch_rows": 2}),
    ("v5e", {"fsdp": 4}, {"model.remat": "none", "data.batch_size": 8}),
    ("v5p", {"fsdp": 4}, {"model.remat": "full", "mesh.rules": "zero1"}),
    ("v5p", {"fsdp": 4}, {"model.remat": "attention", "train.microbatch_rows": 1, "data.seq_len": 2048}),
    ("v6e", {"tensor": 4}, {"model.remat": "none", "data.batch_size": 8}),
    ("v5e", {"fsdp": 2, "tensor": 2}, {"model.remat": "full"}),
    ("v5e", {"data": 4}, {"model.remat": "attention", "data.batch_size": 8, "optimizer.name": "muon"}),
    ("v6e", {"fsdp": 4}, {"model.remat": "dots", "data.vocab_size": 128_000, "model.tie_embeddings": False}),
    ("v5p", {"fsdp": 4}, {"model.remat": "projections", "model.num_layers": 24, "mesh.rules": "zero2"}),
    ("v5p", {"data": 2, "tensor": 2}, {"model.remat": "dots", "mesh.replaced_rules": "residual_length="}),
    (
        "v5p",
        {"expert": 4},
        {"model.remat": "full", "model.num_experts": 4, "model.d_mlp": 2048, "model.expert_capacity": 1.5},
    ),
)


def case_of(row: dict[str, Any]) -> Case:
    """The case that a row is of."""
    return row["chip"], row["mesh"], row["changes"]


def row_of(case: Case, kept: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a case, in bytes: the compiler's if they are there already, and the estimate anew."""
    chip, mesh, changes = case
    row = {"chip": chip, "mesh": mesh, "changes": changes}
    there = [one for one in kept if case_of(one) == case]
    if not there:
        try:
            stats = compiled(case)
        except Exception as error:  # XLA's, such as that it does not fit: part of the table
            return row | {"error": str(error).splitlines()[0]}
        there = [{name: getattr(stats, f"{name}_in_bytes") for name in ("peak_memory", "argument_size", "temp_size")}]
    figures = {name: there[0][name] for name in ("peak_memory", "argument_size", "temp_size")}
    on_paper = estimate(case)
    return row | figures | {"estimate": on_paper.total, "moment": on_paper.moment, "terms": dict(on_paper.terms)}


def main() -> list[dict[str, Any]]:
    """Compiles what is not there yet, writes after each, and prints the table."""
    path = ROOT / "tests" / "bench" / "results" / "memory.json"
    kept = json.loads(path.read_text()) if path.exists() else {"rows": [], "versions": {}}
    versions = {package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu")}
    kept = [row for row in kept["rows"] if "peak_memory" in row] if kept["versions"] == versions else []
    rows: list[dict[str, Any]] = []
    for case in (*CASES, *MORE):
        rows.append(row_of(case, kept))
        kept = [row for row in kept if case_of(row) != case]
        save("memory", [*rows, *kept], markdown(rows), packages=tuple(versions))
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the docs."""
    found = [row for row in rows if "peak_memory" in row]
    near = [row for row in found if abs(row["estimate"] / row["peak_memory"] - 1) <= 0.1]
    lines = [
        "# Memory of a train step",
        "",
        "What a chip holds at the fullest moment of a step, in MiB: on paper (`train/memory.py`) and by XLA's compiler",
        f"for TPUs that need not be there (`peak_memory_in_bytes`). {len(near)} of {len(found)} are within 10%.",
        "The last column is what the program was given: where there is room the compiler leaves holes between arrays,",
        "which it closes where there is not: a program of 1,064 MiB at its peak was given 1,560 of a whole v5e, and",
        "1,064 once no more than 1,404 was free.",
        "",
        "| chip | mesh | what | on paper | compiled | off | fullest at | largest terms on paper | given |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        mesh = " ".join(f"{axis}={size}" for axis, size in row["mesh"].items())
        what = " ".join(f"{key.split('.')[1]}={value}" for key, value in row["changes"].items())
        if "peak_memory" not in row:
            lines.append(f"| {row['chip']} | {mesh} | {what} | {row['error'][:80]} | | | | | |")
            continue
        off = row["estimate"] / row["peak_memory"] - 1
        given = row["argument_size"] + row["temp_size"]
        terms = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in [*row["terms"].items()][:5])
        lines.append(
            f"| {row['chip']} | {mesh} | {what} | {row['estimate'] / 2**20:,.0f} | {row['peak_memory'] / 2**20:,.0f} | "
            f"{off:+.1%} | {row['moment']} | {terms} | {given / 2**20:,.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

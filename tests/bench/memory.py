"""How far the memory on paper is from the compiler's, case by case, with the terms of the estimate.

    JAX_PLATFORMS=cpu python -m tests.bench.memory

It writes tests/bench/results/memory.json and docs/memory.md. Nothing runs, so figures are exact; a case takes a minute
or two to compile, and one that is in the JSON already, with these versions, is not compiled again.
"""

import importlib.metadata
import json
from typing import Any

from tests.bench.results import ROOT, save
from tests.test_tpu_memory import CASES, Case, compare

MORE: tuple[Case, ...] = (
    ("v5p", {"fsdp": 4}, {"model.remat": "none"}),
    ("v5p", {"tensor": 4}, {"model.remat": "full", "data.batch_size": 8}),
    ("v5p", {"fsdp": 2, "tensor": 2}, {"model.remat": "projections"}),
    ("v5p", {"fsdp": 4}, {"model.remat": "attention", "train.microbatch_rows": 1, "data.seq_len": 2048}),
    (
        "v5p",
        {"stage": 4},
        {"model.remat": "full", "train.microbatch_rows": 1, "data.batch_size": 8, "data.seq_len": 2048},
    ),
    ("v5p", {"context": 4}, {"model.remat": "full", "data.seq_len": 4096, "data.batch_size": 4}),
    ("v5p", {"fsdp": 4}, {"model.remat": "full", "mesh.rules": "zero1"}),
    ("v5p", {"expert": 4}, {"model.remat": "full", "model.num_experts": 4, "model.d_mlp": 2048}),
    (
        "v5p",
        {"expert": 4},
        {"model.remat": "full", "model.num_experts": 4, "model.d_mlp": 2048, "model.expert_capacity": 1.5},
    ),
    ("v5e", {"data": 4}, {"model.remat": "projections", "model.num_layers": 4}),
    ("v6e", {"fsdp": 4}, {"model.remat": "full", "model.tie_embeddings": False}),
    ("v5e", {"fsdp": 2, "tensor": 2}, {"model.remat": "full"}),
    ("v6e", {"tensor": 4}, {"model.remat": "none", "data.batch_size": 8}),
    ("v5e", {"fsdp": 4}, {"model.remat": "full"}),
    ("v5e", {"fsdp": 4}, {"model.remat": "none", "data.batch_size": 8}),
    ("v5e", {"data": 4}, {"model.remat": "attention", "data.batch_size": 8, "optimizer.name": "muon"}),
    ("v6e", {"fsdp": 4}, {"model.remat": "dots", "data.vocab_size": 128_000, "model.tie_embeddings": False}),
    ("v6e", {"fsdp": 2, "tensor": 2}, {"model.remat": "full", "train.microbatch_rows": 2}),
    ("v5p", {"fsdp": 4}, {"model.remat": "projections", "model.num_layers": 24, "mesh.rules": "zero2"}),
    ("v5p", {"data": 2, "tensor": 2}, {"model.remat": "dots", "mesh.replaced_rules": "residual_length="}),
)


def row_of(case: Case) -> dict[str, Any]:
    """The figures of a case; bytes."""
    generation, axes, changes = case
    row = {"chip": generation, "mesh": axes, "changes": dict(changes)}
    try:
        estimate, compiled = compare(case)
    except Exception as error:  # XLA's, such as that it does not fit: part of the table
        return row | {"error": str(error).splitlines()[0]}
    return row | {
        "estimate": estimate.total,
        "moment": estimate.moment,
        "terms": dict(estimate.terms),
        "compiled": compiled.peak_memory_in_bytes,
        "arguments": compiled.argument_size_in_bytes,
        "temporaries": compiled.temp_size_in_bytes,
    }


def main() -> list[dict[str, Any]]:
    """Compiles what is not there yet, writes after each, and prints the table."""
    path = ROOT / "tests" / "bench" / "results" / "memory.json"
    kept = json.loads(path.read_text()) if path.exists() else {"rows": [], "versions": {}}
    versions = {package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "libtpu")}
    rows = [row for row in kept["rows"] if {k: kept["versions"].get(k) for k in versions} == versions]
    for case in (*CASES, *MORE):
        there = [row for row in rows if (row["chip"], row["mesh"], row["changes"]) == case]
        if not there:
            rows.append(row_of(case))
            save("memory", rows, markdown(rows), packages=tuple(versions))
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the docs."""
    found = [row for row in rows if "compiled" in row]
    near = [row for row in found if abs(row["estimate"] / row["compiled"] - 1) <= 0.1]
    lines = [
        "# Memory of a train step",
        "",
        "What a chip holds at the fullest moment of a step, in MiB: on paper (`train/memory.py`) and by XLA's compiler",
        f"for TPUs that need not be there (`peak_memory_in_bytes`). {len(near)} of {len(found)} are within 10%.",
        "",
        "| chip | mesh | what | on paper | compiled | off | fullest at | largest terms on paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        mesh = " ".join(f"{axis}={size}" for axis, size in row["mesh"].items())
        what = " ".join(f"{key.split('.')[1]}={value}" for key, value in row["changes"].items())
        if "compiled" not in row:
            lines.append(f"| {row['chip']} | {mesh} | {what} | {row['error'][:80]} | | | | |")
            continue
        off = row["estimate"] / row["compiled"] - 1
        terms = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in [*row["terms"].items()][:5])
        lines.append(
            f"| {row['chip']} | {mesh} | {what} | {row['estimate'] / 2**20:,.0f} | {row['compiled'] / 2**20:,.0f} | "
            f"{off:+.1%} | {row['moment']} | {terms} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

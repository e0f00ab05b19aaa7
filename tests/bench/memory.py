"""How far the memory on paper is from the compiler's, case by case, with the terms of the estimate.

    JAX_PLATFORMS=cpu python -m tests.bench.memory

It needs the compilers for TPUs and for GPUs: pip install 'palmette[tpu,cuda]'. It writes docs/memory.md and
tests/bench/results/memory.json. Nothing runs, so figures are exact. A case takes up to two minutes of a core to
compile; one whose program is in the JSON already, of these versions, is not compiled again.
"""

import hashlib
import importlib
import importlib.metadata
import json
import re
from typing import Any

from parallel import parse_machine
from tests.bench.results import ROOT, save
from tests.test_tpu_memory import Case, estimate, medium
from train.ahead import lower_step
from train.compile import compile_step, mesh_of

H100, HGX, ROWS = "gpu:h100:1", "gpu:h100:8", {"data.batch_size": 64}
# Topology, config ("" is `medium` of tests/test_tpu_memory.py), mesh, changes.
CASES: tuple[Case, ...] = (
    ("v5p:2x2x1", "", {"fsdp": 4}, {"model.remat": "full"}),
    ("v6e:2x2", "", {"fsdp": 4}, {"model.remat": "full", "model.tie_embeddings": False}),
    ("v5p:2x2x1", "", {"fsdp": 4}, {"model.remat": "none"}),
    ("v5e:2x2", "", {"fsdp": 4}, {"model.remat": "full"}),
    ("v5e:2x4", "gpt2_124m_v5e_8", {}, {}),
    (H100, "", {}, {"model.remat": "full"}),
    (H100, "", {}, {"model.remat": "full", "model.attention": "plain"}),
    (H100, "", {}, {"model.remat": "none"}),
    (H100, "", {}, {"model.remat": "full", "train.objective": "auto,chunk=256"}),
    (H100, "", {}, {"model.remat": "full", "train.parameters": "lora,rank=16"}),
    (H100, "", {}, {"model.remat": "full", "model.attention": "blocked", "data.seq_len": 2048, "data.batch_size": 8}),
    (HGX, "", {"fsdp": 8}, {"model.remat": "full", **ROWS}),
    (HGX, "", {"fsdp": 8}, {"model.remat": "none", **ROWS}),
    (HGX, "", {"data": 8}, {"model.remat": "dots", **ROWS}),
    (HGX, "", {"fsdp": 4, "tensor": 2}, {"model.remat": "attention", **ROWS}),
    (HGX, "", {"tensor": 8}, {"model.remat": "full", "data.batch_size": 8, "model.num_kv_heads": 8}),
    (HGX, "", {"fsdp": 8}, {"model.remat": "full", "train.microbatch_rows": 2, **ROWS}),
    (HGX, "", {"fsdp": 8}, {"model.remat": "full", "mesh.rules": "zero1", **ROWS}),
    (HGX, "", {"fsdp": 8}, {"model.remat": "dots", "model.tie_embeddings": False, "data.vocab_size": 64_000, **ROWS}),
    ("gpu:a100:8", "", {"data": 2, "fsdp": 4}, {"model.remat": "attention", **ROWS}),
    ("gpu:h100:2", "", {"fsdp": 2}, {"model.remat": "projections", "data.seq_len": 2048, "data.batch_size": 8}),
    ("gpu:h100:8x2", "", {"data": 2, "fsdp": 8}, {"model.remat": "full", **ROWS}),
    (HGX, "", {"fsdp": 8}, {"model.remat": "full", "model.attention": "plain", "data.seq_len": 2048, **ROWS}),
    (HGX, "bert_large", {"data": 8}, {"train.microbatch_rows": 16, "model.remat": "full"}),
    (H100, "gpt2_124m_h100_1", {}, {}),
    ("gpu:h200:1", "gpt2_1b5_h200_1", {}, {}),
    (HGX, "llama3_8b_h100_8", {}, {}),
)


def key_of(case: Case) -> str:
    """What the compiler is given, in a word: another program, machine or version of a compiler has another."""
    topology, _, _, _ = case
    machine = parse_machine(topology)
    config = config_of(case)
    text = lower_step(config, mesh_of(config, machine)).as_text()
    # Kernels are bytes that name the lines of the sources they come from.
    text = re.sub(r'backend_config = "(?:\\.|[^"\\])*"', "", text)
    packages = ("jax", "jaxlib", "libtpu" if machine.chip.platform == "tpu" else "jax-cuda13-plugin")
    said = ",".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return hashlib.sha256(f"{topology} {said} {text}".encode()).hexdigest()[:16]


def config_of(case: Case) -> Any:
    """The config of a case, with its mesh."""
    _, name, mesh, changes = case
    config = importlib.import_module(f"configs.{name}").get_config() if name else medium({})
    config.update_from_flattened_dict({**changes, **{f"mesh.{axis}": size for axis, size in mesh.items()}})
    if mesh and "data" not in mesh:
        config.mesh.data = 1
    return config


def row_of(case: Case, kept: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of a case, in bytes: the compiler's if they are there already, and the estimate anew."""
    topology, name, mesh, changes = case
    row = {"topology": topology, "config": name, "mesh": mesh, "changes": changes, "key": key_of(case)}
    if row["key"] in kept:
        row |= {part: kept[row["key"]][part] for part in ("needed", "arguments", "temporaries")}
    else:
        memory = compile_step(config_of(case), parse_machine(topology)).memory
        row |= {"needed": memory.needed, "arguments": memory.arguments, "temporaries": memory.temporaries}
    on_paper = estimate(topology, config_of(case))
    return row | {"estimate": on_paper.total, "moment": on_paper.moment, "terms": dict(on_paper.terms)}


def main() -> list[dict[str, Any]]:
    """Compiles what is not there yet, writes after each, and prints the table."""
    path = ROOT / "tests" / "bench" / "results" / "memory.json"
    kept = {row["key"]: row for row in json.loads(path.read_text())["rows"] if "key" in row} if path.exists() else {}
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rows.append(row_of(case, kept))
        done = {row["key"] for row in rows}
        others = [row for key, row in kept.items() if key not in done]
        save("memory", [*rows, *others], markdown(rows), packages=("jax", "jaxlib", "libtpu", "jax-cuda13-plugin"))
    return rows


STATE = ("parameters", "optimizer moments", "fixed parameters")


def off(row: dict[str, Any]) -> float:
    """The estimate's error."""
    return row["estimate"] / row["needed"] - 1


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the docs."""
    near = [row for row in rows if abs(off(row)) <= 0.1]
    worst = max(rows, key=lambda row: abs(off(row)))
    gpus = sum(row["topology"].startswith("gpu") for row in rows)
    lines = [
        "# Memory of a train step",
        "",
        "What a device holds at the fullest moment of a step, in MiB: on paper (`train/memory.py`), and by compilers",
        "for devices that need not be there (`train.compile`): on TPUs the peak of what lives at one time, on GPUs all",
        f"that is laid out. **{len(near)} of {len(rows)} are within 10%**, {gpus} of them of GPUs; the worst is "
        f"{off(worst):+.1%}.",
        "Where no config is named, it is one of 0.16 billion parameters (`medium` of tests/test_tpu_memory.py).",
        "",
        "| machine | mesh | what | on paper | compiler | off | fullest at | largest terms on paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        mesh = " ".join(f"{axis}={size}" for axis, size in row["mesh"].items()) or "as the config says"
        what = [row["config"], *(f"{key.split('.')[1]}={value}" for key, value in row["changes"].items())]
        terms = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in [*row["terms"].items()][:5])
        lines.append(
            f"| {row['topology']} | {mesh} | {' '.join(filter(None, what))} | {row['estimate'] / 2**20:,.0f} | "
            f"{row['needed'] / 2**20:,.0f} | {off(row):+.1%} | {row['moment']} | {terms} |"
        )
    lines += ["", *(in_words(row) for row in rows if row not in near)]
    return "\n".join(lines) + "\n"


def in_words(row: dict[str, Any]) -> str:
    """Which terms a large error is in: the state, which is the arguments, or the largest of the others."""
    state = sum(size for name, size in row["terms"].items() if name in STATE)
    others = [name for name in row["terms"] if name not in STATE][:2]
    parts = {
        "the state": state - row["arguments"],
        " or ".join(others): row["estimate"] - state - (row["needed"] - row["arguments"]),
    }
    part = max(parts, key=lambda name: abs(parts[name]))
    name = f"{row['topology']} {row['config']} {row['mesh']} {row['changes']}"
    return f"- {name}: the error is in {part}, {parts[part] / 2**20:+,.0f} MiB."


if __name__ == "__main__":
    main()

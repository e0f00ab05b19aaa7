"""What each mesh axis communicates in a step: the textbook, and what XLA compiles for CPUs and for three TPUs.

    JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.bench.collectives

It writes tests/bench/results/collectives.json and docs/collectives.md. Nothing runs, so figures are exact.
"""

import math
from typing import Any

import jax
from jax.sharding import Mesh

from parallel import MeshConfig, make_mesh
from parallel.collectives import Total, collectives, totals
from tests import test_collectives, test_tpu_compile
from tests.bench.results import save
from train.ahead import compile_and_listen, lower_step
from train.budget import budget, totals_of

STAGES = {"model.num_layers": 4, "train.microbatch_rows": 2}
MORE_ON_CPU = {
    "context, all-to-all, remat": ({"context": 2}, {"mesh.context_attention": "all_to_all", "model.remat": "full"}),
    "stage, 4 microbatches": ({"stage": 4}, STAGES),
    "stage, gpipe": ({"stage": 4}, STAGES | {"mesh.schedule": "gpipe"}),
}
MORE_ON_TPU = {
    "fsdp, untied": ({"fsdp": 4}, {"model.tie_embeddings": False}),
    "fsdp, full remat": ({"fsdp": 4}, {"model.remat": "full"}),
    "tensor, remat": ({"tensor": 4}, {"model.remat": "projections"}),
}


def cases_of(platform: str) -> dict[str, Any]:
    """What the tests compile, and more: each axis on every platform, the rest on CPUs and one generation of TPUs."""
    if platform == "cpu":
        return test_collectives.CASES | MORE_ON_CPU
    cases = test_tpu_compile.CASES
    return cases | test_tpu_compile.VARIANTS | MORE_ON_TPU if platform == "v5e" else cases


def rows_of(name: str, platform: str, config: Any, mesh: Mesh) -> list[dict[str, Any]]:
    """One row for each kind of collective and axes."""
    compiled = compile_and_listen(lower_step(config, mesh))
    measured = totals(collectives(compiled.text, mesh.shape))
    expected = totals_of(budget(config, mesh, "cpu" if platform == "cpu" else "tpu"))
    return [
        {
            "case": name,
            "platform": platform,
            "kind": key[0],
            "axes": "+".join(key[1]),
            "expected": [expected.get(key, Total()).tensors, expected.get(key, Total()).bytes],
            "measured": [measured.get(key, Total()).tensors, measured.get(key, Total()).bytes],
            "rematerializes": compiled.rematerializes,
        }
        for key in sorted(expected.keys() | measured.keys())
    ]


def main() -> list[dict[str, Any]]:
    """Compiles all cases, writes and prints the table."""
    rows = []
    for platform in ("cpu", *test_tpu_compile.TOPOLOGIES):
        tests = test_collectives if platform == "cpu" else test_tpu_compile
        for name, (axes, changes) in cases_of(platform).items():
            config = tests.small()
            config.update_from_flattened_dict(changes)
            size = math.prod(axes.values())
            here = jax.devices()[:size] if platform == "cpu" else test_tpu_compile.devices(platform)
            mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), devices=here)
            rows += rows_of(name, platform, config, mesh)
        print(f"{platform}: {len(rows)} rows", flush=True)
    save("collectives", rows, markdown(rows))
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the docs."""
    cases = {(row["platform"], row["case"]): row["rematerializes"] for row in rows}
    remat = sum(cases.values())
    lines = [
        "# Collectives of a train step",
        "",
        "Tensors and bytes of one step: on paper (`train/budget.py`) and in the program that XLA makes of it, for CPUs",
        "and three TPUs, none of which need be there.",
        "",
        f"XLA warned of involuntary full rematerialization in {remat or 'none'} of {len(cases)} programs.",
        "",
        "| case | platform | collective | axes | on paper | compiled | equal |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        paper, compiled = (f"{row[of][0]} of {row[of][1]:,} bytes" for of in ("expected", "measured"))
        equal = "yes" if row["expected"] == row["measured"] else "**no**"
        lines.append(
            f"| {row['case']} | {row['platform']} | {row['kind']} | {row['axes']} | {paper} | {compiled} | {equal} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

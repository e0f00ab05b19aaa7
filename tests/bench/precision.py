"""The loss with products in 8 bits beside that of bfloat16 and float32: a short run of the tiny config, three seeds.

    python -m tests.bench.precision

Runs of one seed have the same parameters at first and the same batches, so their difference is of the precision alone,
and of what training makes of it. It takes about 25 minutes on two CPU cores, which have no such products and compute
what they would give; it writes tests/bench/results/precision.json and docs/precision.md. A fraction of the steps, such
as 0.02, only tries it and writes nothing.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from configs import tiny
from tests.bench.distillation import run
from tests.bench.results import save

DTYPES = ("float32", "bfloat16", "bfloat16,products=int8", "bfloat16,products=float8")
SEEDS, STEPS = (0, 1, 2), 300


def make_config(dtype: str, seed: int, steps: int) -> Any:
    """The tiny config with fewer updates of fewer tokens."""
    config = tiny.get_config()
    config.seed, config.model.dtype = seed, dtype
    config.data.update(seq_len=128, batch_size=8)
    config.optimizer.warmup_steps = min(30, steps // 4)
    config.optimizer.schedule = f"wsd,decay_steps={max(1, steps * 6 // 10)},final_fraction=0"
    config.train.update(steps=steps, eval_every=0, checkpoint_every=steps, keep_checkpoints=1)
    config.sample.prompts = ()
    return config


def main(fraction: float = 1.0) -> list[dict[str, Any]]:
    """Trains all of them, and writes the table if they ran in full."""
    steps, rows = max(4, round(fraction * STEPS)), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for number, dtype in enumerate(DTYPES):
                row = run(f"{number}_{seed}", make_config(dtype, seed, steps), Path(folder))
                rows.append({"dtype": dtype, "seed": seed} | {key: row[key] for key in ("steps", "tokens", "loss")})
    page = markdown(rows)
    if fraction == 1.0:
        save("precision", rows, page, packages=("jax", "jaxlib", "flax", "optax", "qwix"))
    else:
        print(page)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page for the docs."""
    losses = {dtype: [row["loss"] for row in rows if row["dtype"] == dtype] for dtype in DTYPES}
    lines = [
        "# Precision of the products",
        "",
        f"The tiny config with rows of 128 tokens: {rows[0]['steps']} updates, {rows[0]['tokens']:,} tokens, on two",
        "CPU cores. They have no products in 8 bits and compute what those give: this says nothing of speed. Figures",
        "are nats per token of the whole validation split, mean and standard deviation over",
        f"{len(SEEDS)} seeds; runs of a seed begin with the same parameters and have the same batches.",
        "",
        "| `config.model.dtype` | validation loss | minus that of float32, seed by seed |",
        "| --- | --- | --- |",
    ]
    for dtype, found in losses.items():
        beyond = [loss - first for loss, first in zip(found, losses["float32"], strict=True)]
        said = "" if dtype == "float32" else f"{statistics.mean(beyond):+.4f} ± {statistics.stdev(beyond):.4f}"
        lines.append(f"| `{dtype}` | {statistics.mean(found):.4f} ± {statistics.stdev(found):.4f} | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))

"""Whether learning rates hold at other widths: the coordinate check, and the loss over the rate at three widths.

    python -m tests.bench.mup

It trains small GPTs on the source files of Python's standard library, in the standard parametrisation and in muP, and
writes tests/bench/results/mup.json, docs/mup.md and docs/mup.svg. It is meant to take ten minutes on two CPU cores; a
fraction of the steps, such as 0.05, only tries it and writes nothing.
"""

import functools
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from configs import base
from data import Corpus, make_batches, prepare
from tests.bench.results import ROOT, save
from tests.coordinates import changes, of_width
from train import make_model
from train.objective import make_objective
from train.optimizer import make_optimizer
from train.runtime import set_up

BASE, WIDTHS, COORDINATE_WIDTHS = 64, (64, 128, 256), (64, 128, 256, 512)
RATES = tuple(1e-3 * 2.0**i for i in range(7))
STEPS, COORDINATE_STEPS, COORDINATE_RATE = 100, 4, 1e-2
INITS = {"standard": "standard", "muP": f"mup,width={BASE}"}

HEADER = """# muP

`config.model.init="mup,width={base}"` scales initial weights, learning rates, logits and attention of a wider model
such that a rate found at the width of {base} holds (`model/init.py`, Yang et al. 2022, arXiv:2203.03466). GPTs of two
layers, heads of 16, AdamW.

![changes of activations over the width, and losses over the learning rate at three widths](mup.svg)

## The coordinate check

How much the output of the last block and the logits change in {coordinate_steps} steps at a rate of {rate:g} on one
batch of random tokens: means of absolute values. `tests/test_width.py` holds muP to it.

| parametrisation | width | last block | logits |
| --- | --- | --- | --- |
"""
RATE_HEADER = """
## Loss over the learning rate

The mean training loss, in nats per token, of the last tenth of {steps} steps of 1,024 tokens, warmup and linear to
zero, on the source files of Python's standard library, the same batches for all. The best rate of a row is bold. One
seed, and short runs: neighbouring rates that are close mean nothing.

"""


def make_config(init: str, width: int, rate: float, steps: int) -> Any:
    """The GPT of a width."""
    config = base.get_config()
    config.model.update(num_layers=2, scan_unroll=2, init=init)
    config.data.update(seq_len=128, batch_size=8, vocab_size=512, tokenizer_bytes=2_000_000)
    config.optimizer.update(learning_rate=rate, schedule="linear,final_fraction=0", warmup_steps=max(1, steps // 10))
    config.train.steps = steps
    config.mesh.update(data=1, allow_idle=True)
    return of_width(config, width)


def coordinate_rows() -> list[dict[str, Any]]:
    """Of each parametrisation and width."""
    rows = []
    for (name, init), width in itertools.product(INITS.items(), COORDINATE_WIDTHS):
        config = make_config(init, width, COORDINATE_RATE, 10)
        config.data.seq_len = 32
        config.optimizer.update(schedule="constant", warmup_steps=0)
        moved = changes(config, steps=COORDINATE_STEPS)
        row = {"init": name, "width": width, "block": moved["block 1"], "logits": moved["logits"]}
        print(f"{name}, width {width}: the last block changes by {row['block']:.3f}, logits by {row['logits']:.3f}")
        rows.append(row)
    return rows


@functools.cache
def corpus() -> Corpus:
    """What all are trained on."""
    return prepare(make_config("standard", BASE, RATES[0], STEPS).data)


def losses_of(init: str, width: int, steps: int) -> list[float]:
    """At each rate, the mean of the last tenth of the training losses; infinite if it diverged.

    One program for all rates: an update is proportional to the rate.
    """
    config = make_config(init, width, 1.0, steps)
    model, optimizer, objective = make_model(config), make_optimizer(config), make_objective(config)
    batches = itertools.islice(make_batches(config.data, corpus=corpus(), seed=config.seed), steps)
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *batches)

    def loss_of(params: Any, batch: Any) -> Array:
        loss, weight, _ = objective(model.apply, params, batch, None)
        return loss / weight

    @jax.jit
    def train(rate: float) -> Array:
        def step(state: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], Array]:
            params, opt_state = state
            loss, grads = jax.value_and_grad(loss_of)(params, batch)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, jax.tree.map(lambda x: rate * x, updates)), opt_state), loss

        params = nn.unbox(model.init(jax.random.key(config.seed), stacked["inputs"][0, :1, :1])["params"])
        losses = jax.lax.scan(step, (params, optimizer.init(params)), stacked)[1]
        return jnp.mean(losses[-max(1, steps // 10) :])

    losses = []
    for rate in RATES:
        began, loss = time.monotonic(), float(train(rate))
        print(f"{init}, width {width}, rate {rate:g}: {loss:.4f} after {time.monotonic() - began:.0f} s", flush=True)
        losses.append(loss if math.isfinite(loss) else math.inf)
    return losses


def rate_rows(steps: int) -> list[dict[str, Any]]:
    """Of each parametrisation and width, the loss at each rate; at the base width the two are one."""
    rows = []
    for (name, init), width in itertools.product(INITS.items(), WIDTHS):
        if width == BASE and rows:
            losses = rows[0]["losses"]
        else:
            losses = [*zip(RATES, losses_of(init, width, steps), strict=True)]
        rows.append({"init": name, "width": width, "losses": losses})
    return rows


def draw(coordinates: list[dict[str, Any]], rates: list[dict[str, Any]], output: Path) -> None:
    """Changes of activations over the width at the left; losses over the rate, one picture each, at the right."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "palmette"  # the same figures give the same file
    import matplotlib.pyplot as plt

    figure, (left, *right) = plt.subplots(1, 1 + len(INITS), figsize=(12, 3.4), layout="constrained")
    for name, picture in zip(INITS, right, strict=True):
        for what in ("block", "logits"):
            line = [(row["width"], row[what]) for row in coordinates if row["init"] == name]
            said, style = ("last block", "-") if what == "block" else (what, "--")
            color = f"C{[*INITS].index(name)}"
            left.plot(*zip(*line, strict=True), style, color=color, marker="o", label=f"{name}, {said}")
        for row in rates:
            if row["init"] == name:
                picture.plot(*zip(*row["losses"], strict=True), marker="o", label=f"width {row['width']}")
        picture.set(title=name, xlabel="learning rate", ylabel="nats per token", xscale="log")
        picture.legend(fontsize=8)
    finite = [loss for row in rates for _, loss in row["losses"] if math.isfinite(loss)]
    for picture in right:
        picture.set_ylim(min(finite) - 0.1, min(max(finite), min(finite) + 2.5))
    left.set(title=f"change in {COORDINATE_STEPS} steps", xlabel="width", xscale="log", yscale="log")
    left.set_xticks(COORDINATE_WIDTHS, [str(width) for width in COORDINATE_WIDTHS])
    left.minorticks_off()
    left.legend(fontsize=8)
    figure.savefig(output, metadata={"Date": None} if output.suffix == ".svg" else None)
    plt.close(figure)


def markdown(coordinates: list[dict[str, Any]], rates: list[dict[str, Any]]) -> str:
    """The page."""
    page = HEADER.format(base=BASE, coordinate_steps=COORDINATE_STEPS, rate=COORDINATE_RATE)
    for row in coordinates:
        page += f"| {row['init']} | {row['width']} | {row['block']:.2f} | {row['logits']:.2f} |\n"
    page += RATE_HEADER.format(steps=STEPS)
    page += f"| parametrisation | width | {' | '.join(f'{rate:g}' for rate in RATES)} |\n"
    page += "| --- " * (2 + len(RATES)) + "|\n"
    for row in rates:
        best = min(loss for _, loss in row["losses"])
        cells = [f"**{loss:.3f}**" if loss == best else f"{loss:.3f}" for _, loss in row["losses"]]
        page += f"| {row['init']} | {row['width']} | {' | '.join(cells)} |\n"
    return page


def main(fraction: float = 1.0) -> None:
    """Trains them all, and writes the page if they ran in full."""
    set_up(base.get_config().compile_cache)
    coordinates, rates = coordinate_rows(), rate_rows(max(4, round(fraction * STEPS)))
    page = markdown(coordinates, rates)
    if fraction == 1.0:
        draw(coordinates, rates, ROOT / "docs" / "mup.svg")
        save("mup", {"coordinates": coordinates, "rates": rates}, page)
    else:
        print(page)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(*map(float, sys.argv[1:]))

"""Updates that each optimizer takes to one validation loss, at learning rates tuned by the same rule.

    python -m tests.bench.optimizers
    python -m tests.bench.optimizers adamw muon
    python -m tests.bench.optimizers --fraction=0.05 adamw muon

It trains a small GPT on the source files of Python's standard library and writes tests/bench/results/optimizers.json
and docs/optimizers.md. It may be run in pieces, AdamW first, to whose loss the others are held: the optimizers that are
named replace their rows or are added. All are meant to take a quarter of an hour on two CPU cores, the two of the
second line four minutes. A fraction of the steps only tries it and writes nothing.
"""

import argparse
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from configs import base, tiny
from data import Corpus, make_batches, prepare
from parallel import abstract_mesh, make_mesh, shard_batch
from tests.bench.results import ROOT, save
from tests.optimizer_references import REFERENCES, error_of
from train import evaluate, init_state, make_train_step
from train.evaluation import EvalStep, make_eval_step
from train.optimizer import make_optimizer
from train.runtime import set_up
from train.state import abstract_state, model_params

FIRST = "adamw"  # whose loss after LENGTH updates is the target
LENGTH, SHORTER, LONGER = 240, (180, 120), (360,)
MOST_RATES = 5
LAYERS, WIDTH, SEQ_LEN, ROWS, VALID_BATCHES = 2, 128, 128, 8, 64
VOCABULARY = 512  # so small that most parameters are in hidden matrices, as they are in large models

# What figures must have in common to stand in one table.
PROTOCOL = {
    "updates": [*SHORTER[::-1], LENGTH, *LONGER],
    "layers": LAYERS,
    "width": WIDTH,
    "vocabulary": VOCABULARY,
    "seq_len": SEQ_LEN,
    "rows": ROWS,
    "valid_batches": VALID_BATCHES,
}

HEADER = """# Optimizers

`config.optimizer.name` chooses one, with its options: `adamw,b2=0.99,cautious=true`. The options and their defaults are
the arguments of its function in `train/optimizer.py`. `sgd`, `rmsprop` and `adam` add weight decay to the gradient, the
others to the update; `cautious` leaves it out where it opposes the update (arXiv:2510.12402). Muon and SOAP are for the
hidden matrices, and AdamW goes beside them.

## Updates to a validation loss of {target:.3f}

That is what `{first}` reaches in {length} updates: a GPT of {layers} layers of {width} and {params:.1f} million
parameters, {tokens:,} tokens a batch, on the source files of Python's standard library; the loss is of the first
{valid:,} tokens of the validation split. The vocabulary of {vocabulary} leaves most parameters to the hidden matrices,
as in large models. One seed: differences of a few percent mean nothing, and so short a run tells of the beginning of a
long one.

Each rate was tuned over runs of {length} updates: three rates a factor of two apart, and then one more as long as the
best is at an end, at most {most}. At the best one, shorter runs follow ({shorter} updates) as long as the target is
reached, or a longer one ({longer}) if it is not, each with a whole schedule of its own: 30 updates of warmup and linear
to zero, or constant for schedule-free. Between two lengths the loss is taken to be linear in the logarithm of the
updates. Muon's rate is that of the hidden matrices; of the rest it is 0.016, the best of 0.002, 0.004, 0.008, 0.016 and
0.032 at the best of the former. Weight decay is 0.1, for Lion 1, and none
where it is a part of the gradient. `kept` are the numbers in the state for each parameter.

"""
ERRORS = """
## Beside published equations

Six updates of a small tree, stacked layers and experts among it, against NumPy in float64 (for Muon, Optax on each
matrix): the norm of the difference over that of what was learned, for the parameter where it is largest. SOAP's first
eigenvectors are found by power iteration there, too, and schedule-free's second moment is corrected as in Optax.
`tests/test_optimizer.py` holds them to this.

| `config.optimizer.name` | error |
| --- | --- |
"""


class Setting(NamedTuple):
    """How an optimizer is tried.

    Attributes:
        name: of `config.optimizer.name`; "{}" takes the rate.
        rate: the middle of the first three rates.
        learning_rate: of the rest, if `name` takes the rate.
        weight_decay: of the config.
        schedule: of the config.
    """

    name: str
    rate: float
    learning_rate: float | None = None
    weight_decay: float = 0.1
    schedule: str = "linear,final_fraction=0"


SETTINGS = {
    "adamw": Setting("adamw", 4e-3),
    "muon": Setting("muon,learning_rate={}", 2e-2, learning_rate=1.6e-2),
    "soap": Setting("soap", 4e-3),
    "lion": Setting("lion", 4e-4, weight_decay=1.0),
    "lamb": Setting("lamb,b2=0.95", 1.6e-2),
    "adafactor": Setting("adafactor", 8e-2),
    "schedule-free": Setting("schedule_free", 4e-3, schedule="constant"),
    "adamw, cautious": Setting("adamw,cautious=true", 4e-3),
    "adam": Setting("adam,b2=0.95", 4e-3, weight_decay=0.0),
    "rmsprop": Setting("rmsprop,decay=0.95", 2e-3, weight_decay=0.0),
    "sgd": Setting("sgd,momentum=0.9", 0.4, weight_decay=0.0),
}

# (name of a setting, rate, updates) -> the loss at the end of that run
LossOf = Callable[[str, float, int], float]


def make_config(setting: Setting, rate: float, steps: int) -> Any:
    """The GPT, trained for some steps."""
    config = tiny.get_config()
    config.model.update(num_layers=LAYERS, d_model=WIDTH, num_heads=4, d_mlp=4 * WIDTH, scan_unroll=LAYERS)
    config.data.update(seq_len=SEQ_LEN, batch_size=ROWS, vocab_size=VOCABULARY, tokenizer_bytes=2_000_000)
    config.optimizer.update(name=setting.name.format(rate), learning_rate=setting.learning_rate or rate)
    config.optimizer.update(weight_decay=setting.weight_decay, schedule=setting.schedule)
    config.optimizer.warmup_steps = min(30, steps // 4)
    config.train.steps = steps
    config.mesh.update(data=1, allow_idle=True)
    return config


@functools.cache
def what_all_share() -> tuple[Mesh, Corpus, EvalStep]:
    """The device, the data, and the evaluation, which is compiled once."""
    config = make_config(SETTINGS[FIRST], 1.0, LENGTH)
    set_up(config.compile_cache)
    mesh = make_mesh(config.mesh, devices=jax.devices()[:1])
    return mesh, prepare(config.data), make_eval_step(config, mesh)


def loss_of(name: str, rate: float, steps: int) -> float:
    """Of a run's last parameters, or their average; infinite if it diverged."""
    began = time.monotonic()
    mesh, corpus, eval_step = what_all_share()
    config = make_config(SETTINGS[name], rate, steps)
    state, step = init_state(config, mesh), make_train_step(config, mesh)
    for batch in itertools.islice(make_batches(config.data, corpus=corpus, seed=config.seed), steps):
        state, metrics = step(state, shard_batch(batch, mesh))
        jax.block_until_ready(metrics)
    used = model_params(config, state)
    loss = evaluate(config, used, mesh, corpus=corpus, limit=VALID_BATCHES, eval_step=eval_step)["loss"]
    print(f"{name}, rate {rate:g}, {steps} updates: {loss:.4f} after {time.monotonic() - began:.0f} s", flush=True)
    return loss if math.isfinite(loss) else math.inf


def tuned(middle: float, loss_at: Callable[[float], float]) -> dict[float, float]:
    """The loss at each rate: three a factor of two apart, and further ones while the best of them is at an end."""
    losses: dict[float, float] = {}
    wanted = [middle / 2, middle, 2 * middle]
    while wanted and len(losses) < MOST_RATES:
        rate = wanted.pop(0)
        losses[rate] = loss_at(rate)
        best = min(losses, key=lambda rate: losses[rate])
        if not wanted and best in (min(losses), max(losses)):
            wanted = [best / 2 if best == min(losses) else 2 * best]
    return losses


def other_lengths(loss: float, target: float, loss_at: Callable[[int], float]) -> dict[int, float]:
    """The losses of the lengths that tell when the target is reached, given that after LENGTH updates."""
    found: dict[int, float] = {}
    for steps in SHORTER if loss <= target else LONGER:
        found[steps] = loss_at(steps)
        if (found[steps] <= target) != (loss <= target):
            break
    return found


def steps_to(target: float, losses: Mapping[int, float]) -> float | None:
    """Where the losses of runs of several lengths, joined in the logarithm of the steps, reach a target; None: nowhere.

    A target that the shortest run is below is taken to be there, at its length.
    """
    points = sorted(losses.items())
    if points[0][1] <= target:
        return points[0][0]
    for (a, high), (b, low) in itertools.pairwise(points):
        if low <= target:
            if math.isinf(high):  # the shorter one diverged
                return b
            return math.exp(math.log(a) + (math.log(b) - math.log(a)) * (high - target) / (high - low))
    return None


def state_sizes(name: str) -> tuple[int, int]:
    """Numbers that an optimizer keeps, and those of the parameters."""
    state = abstract_state(make_config(SETTINGS[name], SETTINGS[name].rate, LENGTH), abstract_mesh())
    kept, params = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state.opt_state, state.params))
    return kept, params


def row_of(name: str, target: float | None, loss: LossOf, fraction: float = 1.0) -> dict[str, Any]:
    """What is found of one optimizer; without a target, of LENGTH updates alone."""
    scaled = lambda steps: max(4, round(fraction * steps))
    tuning = tuned(SETTINGS[name].rate, lambda rate: loss(name, rate, scaled(LENGTH)))
    rate = min(tuning, key=lambda rate: tuning[rate])
    lengths = {LENGTH: tuning[rate]}
    if target is not None:
        lengths |= other_lengths(tuning[rate], target, lambda steps: loss(name, rate, scaled(steps)))
    kept, params = state_sizes(name)
    return {
        "optimizer": name,
        "rate": rate,
        "tuning": [*tuning.items()],
        "lengths": [*lengths.items()],
        "kept": kept / params,
        "params": params,
    }


def held_to_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, AdamW's first, with the updates that each takes to its loss."""
    target = dict(rows[0]["lengths"])[LENGTH]
    return [row | {"updates": steps_to(target, dict(row["lengths"]))} for row in rows]


def read_rows() -> dict[str, dict[str, Any]]:
    """The rows that were written before by the same protocol, by name."""
    path = ROOT / "tests" / "bench" / "results" / "optimizers.json"
    written = json.loads(path.read_text())["rows"] if path.exists() else {}
    return {row["optimizer"]: row for row in written["runs"]} if written.get("protocol") == PROTOCOL else {}


def main(names: Sequence[str] = tuple(SETTINGS), *, fraction: float = 1.0, loss: LossOf = loss_of) -> None:
    """Tries the optimizers one after the other, and writes the tables after each, unless it is a fraction.

    Args:
        names: keys of SETTINGS.
        fraction: of all steps.
        loss: what trains.

    Raises:
        ValueError: a name is unknown, or there is no row of AdamW yet.
    """
    rows = read_rows() if fraction == 1.0 else {}
    for name in names:
        if name not in SETTINGS:
            raise ValueError(f"{name!r} is not known; use some of {', '.join(map(repr, SETTINGS))}")
    if FIRST not in (*names, *rows):
        raise ValueError(f"the others are held to {FIRST}, of which there is no row yet: name it, too")
    references = REFERENCES if fraction == 1.0 else {}
    errors = {name: error_of(make_optimizer, base.get_config(), name) for name in references}
    for name in sorted(names, key=lambda name: name != FIRST):
        target = None if name == FIRST else dict(rows[FIRST]["lengths"])[LENGTH]
        rows[name] = row_of(name, target, loss, fraction)
        ordered = held_to_first([rows[one] for one in SETTINGS if one in rows])
        page = markdown(ordered, errors)
        if fraction == 1.0:
            save("optimizers", {"protocol": PROTOCOL, "runs": ordered, "errors": errors}, page)
        else:
            print(page)


def markdown(rows: list[dict[str, Any]], errors: Mapping[str, float]) -> str:
    """The page."""
    lines = []
    for row in rows:
        updates, shortest = row["updates"], min(length for length, _ in row["lengths"])
        said = f"more than {max(length for length, _ in row['lengths'])}" if updates is None else f"{updates:.0f}"
        share = "" if updates is None else f"{updates / LENGTH:.2f}"
        if updates == shortest < LENGTH:
            said, share = f"at most {said}", f"at most {share}"
        tried, lengths = (
            ", ".join(f"{x:g}: {loss:.3f}" for x, loss in sorted(row[key])) for key in ("tuning", "lengths")
        )
        cells = [row["optimizer"], said, share, f"{row['rate']:g}", tried, lengths, f"{row['kept']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    found = HEADER.format(
        target=dict(rows[0]["lengths"])[LENGTH],
        first=FIRST,
        length=LENGTH,
        layers=LAYERS,
        width=WIDTH,
        vocabulary=VOCABULARY,
        params=rows[0]["params"] / 1e6,
        tokens=ROWS * SEQ_LEN,
        valid=VALID_BATCHES * ROWS * SEQ_LEN,
        most=MOST_RATES,
        shorter=", ".join(map(str, SHORTER)),
        longer=", ".join(map(str, LONGER)),
    )
    table = f"| optimizer | updates | of {FIRST}'s | rate | loss at each rate | loss after updates | kept |\n"
    table += "| --- " * 7 + "|\n" + "\n".join(lines) + "\n"
    return found + table + ERRORS + "".join(f"| `{name}` | {error:.1e} |\n" for name, error in errors.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Updates of each optimizer to one validation loss.")
    parser.add_argument("names", nargs="*", default=[*SETTINGS], help=f"some of {', '.join(map(repr, SETTINGS))}")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the steps; less than 1 writes nothing")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    main(arguments.names, fraction=arguments.fraction)

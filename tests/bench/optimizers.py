"""Updates that each optimizer takes to one validation loss, at settings tuned by the same rule.

    python -m tests.bench.optimizers
    python -m tests.bench.optimizers 0.02 adamw soap

It trains a small GPT on the source files of Python's standard library, writes tests/bench/results/optimizers.json and
docs/optimizers.md, and takes about two hours on two CPU cores; a fraction of the steps, or some
of the optimizers with AdamW among them, only tries it and writes nothing.
"""

import itertools
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from configs import base, tiny
from parallel import MeshConfig, make_mesh
from tests.bench.distillation import run
from tests.bench.results import save
from tests.optimizer_references import REFERENCES, error_of
from train.optimizer import make_optimizer
from train.state import abstract_state

TUNED, LENGTHS, TARGET = 200, (133, 200, 300, 450), ("adamw", 300)
MOST_RATES = 5

HEADER = """# Optimizers

`config.optimizer.name` chooses one, with its options: `adamw,b2=0.99,cautious=true`. The options and their defaults are
the arguments of its function in `train/optimizer.py`. `sgd`, `rmsprop` and `adam` add weight decay to the gradient, the
others to the update; `cautious` leaves it out where it opposes the update (arXiv:2510.12402). Muon and SOAP are for the
hidden matrices, and AdamW goes beside them.

## Updates to a validation loss of {target}

That is what {first} reaches in {length} updates: a GPT of two layers and a million parameters, 2,048 tokens a batch, on
the source files of Python's standard library; one seed. Each rate was tuned over runs of {tuned} updates: three rates a
factor of two apart, and then one more as long as the best is at an end, at most {most}. The best one was run for
{lengths} updates, each with a whole schedule of its own: 30 updates of warmup and linear to zero, or constant for
schedule-free. Between these lengths the loss is taken to be linear in the logarithm of the updates. Muon's rate is that
of the hidden matrices, 0.004 that of the rest. Weight decay is 0.1, for Lion 1, and none where it is a part of the
gradient. `kept` are the numbers in the state for each parameter.

"""
ERRORS = """
## Beside published equations

Six updates of a small tree, stacked layers and experts among it, against NumPy in float64 (for Muon, Optax on each
matrix): the norm of the difference over that of what was learned, for the parameter where it is largest.
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
    "sgd": Setting("sgd,momentum=0.9", 0.4, weight_decay=0.0),
    "rmsprop": Setting("rmsprop,decay=0.95", 2e-3, weight_decay=0.0),
    "adam": Setting("adam,b2=0.95", 4e-3, weight_decay=0.0),
    "adamw": Setting("adamw", 4e-3),
    "adamw, cautious": Setting("adamw,cautious=true", 4e-3),
    "lamb": Setting("lamb,b2=0.95", 1.6e-2),
    "adafactor": Setting("adafactor", 8e-2),
    "lion": Setting("lion", 4e-4, weight_decay=1.0),
    "muon": Setting("muon,learning_rate={}", 2e-2, learning_rate=4e-3),
    "soap": Setting("soap", 4e-3),
    "schedule-free": Setting("schedule_free", 4e-3, schedule="constant"),
}


def make_config(setting: Setting, rate: float, steps: int) -> Any:
    """A GPT of two layers and a million parameters."""
    config = tiny.get_config()
    config.model.update(num_layers=2, d_model=128, num_heads=4, d_mlp=512, scan_unroll=2)
    config.data.update(seq_len=128, batch_size=16)
    config.optimizer.update(name=setting.name.format(rate), learning_rate=setting.learning_rate or rate)
    config.optimizer.update(weight_decay=setting.weight_decay, schedule=setting.schedule)
    config.optimizer.warmup_steps = min(30, steps // 4)
    config.train.update(steps=steps, eval_every=0, checkpoint_every=steps, keep_checkpoints=1)
    config.sample.prompts = ()
    return config


def tuned(name: str, steps: int, directory: Path) -> dict[float, float]:
    """The loss at each rate: three a factor of two apart, and further ones while the best of them is at an end."""
    setting, losses = SETTINGS[name], {}
    wanted = [setting.rate / 2, setting.rate, 2 * setting.rate]
    while wanted and len(losses) < MOST_RATES:
        rate = wanted.pop(0)
        losses[rate] = loss_of(name, rate, steps, directory)
        best = min(losses, key=lambda rate: losses[rate])
        if not wanted and best in (min(losses), max(losses)):
            wanted = [best / 2 if best == min(losses) else 2 * best]
    return losses


def loss_of(name: str, rate: float, steps: int, directory: Path) -> float:
    """Of the whole validation split, at the end of a run; infinite if it diverged."""
    config = make_config(SETTINGS[name], rate, steps)
    loss = run(f"{name} {rate:g} {steps}".replace(" ", "_").replace(",", ""), config, directory)["loss"]
    return loss if math.isfinite(loss) else math.inf


def steps_to(target: float, losses: dict[int, float]) -> float | None:
    """Where the losses of runs of several lengths, joined in the logarithm of the steps, reach a target; None: nowhere.

    A target that the shortest run is below is taken to be there, at its length.
    """
    points = sorted(losses.items())
    if points[0][1] <= target:
        return points[0][0]
    for (a, high), (b, low) in itertools.pairwise(points):
        if low <= target:
            return math.exp(math.log(a) + (math.log(b) - math.log(a)) * (high - target) / (high - low))
    return None


def numbers_kept(name: str) -> float:
    """The optimizer's state, in numbers for each parameter."""
    mesh = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])
    state = abstract_state(make_config(SETTINGS[name], SETTINGS[name].rate, 100), mesh)
    sizes = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state.opt_state, state.params))
    return next(sizes) / next(sizes)


def main(fraction: float = 1.0, names: Sequence[str] = tuple(SETTINGS)) -> list[dict[str, Any]]:
    """Tunes each, trains it for several lengths, and writes the tables if all ran in full."""
    scaled = {steps: max(4, round(fraction * steps)) for steps in (TUNED, *LENGTHS)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            losses = tuned(name, scaled[TUNED], Path(folder))
            rate = min(losses, key=lambda rate: losses[rate])
            lengths = {n: losses[rate] if n == TUNED else loss_of(name, rate, scaled[n], Path(folder)) for n in LENGTHS}
            rows.append({"optimizer": name, "rate": rate, "tuning": losses, "lengths": lengths})
    target = next(row["lengths"][TARGET[1]] for row in rows if row["optimizer"] == TARGET[0])
    for row in rows:
        row |= {"steps": steps_to(target, row["lengths"]), "kept": numbers_kept(row["optimizer"])}
    errors = {name: error_of(make_optimizer, base.get_config(), name) for name in REFERENCES}
    page = markdown(rows, target, errors)
    if fraction == 1.0 and len(names) == len(SETTINGS):
        save("optimizers", {"runs": rows, "target": target, "errors": errors}, page)
    else:
        print(page)
    return rows


def markdown(rows: list[dict[str, Any]], target: float, errors: dict[str, float]) -> str:
    """The page."""
    reached = {row["optimizer"]: row["steps"] for row in rows}
    first, length = TARGET
    lines = []
    for row in rows:
        steps = row["steps"]
        said = f"more than {max(LENGTHS)}" if steps is None else f"{steps:.0f}"
        share = "" if steps is None or not reached[first] else f"{steps / reached[first]:.2f}"
        tried = ", ".join(f"{rate:g}" for rate in sorted(row["tuning"]))
        cells = [row["optimizer"], said, share, f"{row['rate']:g}", tried, f"{row['kept']:.2f}"]
        cells += [f"{loss:.3f}" for loss in row["lengths"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    at = " | ".join(f"at {length}" for length in LENGTHS)
    found = HEADER.format(
        target=f"{target:.3f}",
        first=first,
        length=length,
        tuned=TUNED,
        most=MOST_RATES,
        lengths=", ".join(map(str, LENGTHS)),
    )
    table = f"| optimizer | updates | of {first}'s | rate | rates tried | kept | {at} |\n"
    table += "| --- " * (6 + len(LENGTHS)) + "|\n" + "\n".join(lines) + "\n"
    return found + table + ERRORS + "".join(f"| `{name}` | {error:.1e} |\n" for name, error in errors.items())


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]), *([sys.argv[2:]] if sys.argv[2:] else []))

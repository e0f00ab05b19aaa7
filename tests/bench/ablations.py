"""What each part of the speed pack is worth: a plain GPT, then with each part alone, then with all of them.

    python -m tests.bench.ablations
    python -m tests.bench.ablations base qk_norm
    python -m tests.bench.ablations --fraction=0.05 base value_residual

It trains a shorter run of configs/tiny.py and writes tests/bench/results/ablations.json, docs/ablations.md and
docs/ablations.svg after each part. It may be run in pieces, the plain GPT first, to which the others are held: the
parts that are named replace their rows or are added. A run is meant to take a minute and a half on two quiet CPU cores,
and a part up to six of them. A fraction of the steps only tries it and writes nothing.
"""

import argparse
import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from configs import tiny
from data import Corpus, make_batches, prepare
from data.command_line import flatten
from model import count_params
from parallel import make_mesh, shard_batch
from tests.bench.results import ROOT, save
from train import evaluate, init_state, make_train_step
from train.compose import make_model
from train.evaluation import EvalStep, make_eval_step
from train.report import Curves, draw
from train.runtime import set_up
from train.stages import Growth, Stage, with_stage
from train.state import model_params

FIRST = "base"
STEPS, SEEDS = 180, (0, 1, 2)
VALID_BATCHES, SOME_BATCHES = 32, 4  # at the end, and on the way
ROUNDS = 8  # of the race
SAME = 0.01  # ratios of step times that are closer to 1 are taken for 1
PLAIN = {"model.activation": "gelu", "model.qk_norm": "none"}

# part -> (what it is, what it changes)
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    FIRST: ("plain GPT", {}),
    "qk_norm": ("QK norm", {"model.qk_norm": "head"}),
    "squared_relu": ("squared ReLU for GELU", {"model.activation": "squared_relu"}),
    "value_residual": ("values of the first layer", {"model.value_mix": "first_layer"}),
    "value_embeddings": ("value embeddings", {"model.value_mix": "embedding,tables=3"}),
    "soft_cap": ("soft cap of the logits", {"model.logit_soft_cap": 15.0}),
    "window_ramp": ("window that grows", {"model.window_ramp": "doubling,start=32,steps={growing}"}),
    "untied_head": ("head of its own", {"model.tie_embeddings": False}),
    "zero_outputs": ("layers that begin as the identity", {"model.init": "standard,std=0.05,zero_outputs=1"}),
}
PARTS["together"] = (
    "all together",
    {key: value for _, changes in PARTS.values() for key, value in changes.items()}
    | {"model.value_mix": "first_layer+embedding,tables=3"},
)

# What figures must have in common to stand in one table.
PROTOCOL = {"steps": STEPS, "seeds": [*SEEDS], "valid_batches": VALID_BATCHES}

HEADER = """# The speed pack, part by part

What speed runs of GPT's training have found beyond the plain architecture is here a field of `config.model` each. The
run is configs/tiny.py cut to {steps} steps of {tokens:,} tokens, with its optimizer; the plain GPT has none of the
parts. The loss is of the first {valid:,} tokens of the validation split, in nats per token: mean and standard deviation
over {seeds} seeds, of parameters and of the order of the data.

*Step time* is that of the plain GPT's, one step of each in turn. *In its time* is a run of as many steps as fit into
the plain GPT's, with a whole schedule of its own. *M* is million parameters. So short a run of so small a model tells
of the beginning of training; parts that steady a long one show nothing here.

"""
COLUMNS = (
    "",
    "`config.model`",
    "loss",
    "beside the plain GPT",
    "step time",
    "steps in its time",
    "loss then",
    "M",
)


class Run(NamedTuple):
    """What is measured of a run.

    Attributes:
        loss: on the validation split, at the end.
        curve: records as those of metrics.jsonl, on the way.
    """

    loss: float
    curve: list[dict[str, float]]


# (part, seed, steps) -> the run
RunOf = Callable[[str, int, int], Run]


def make_config(part: str, steps: int, seed: int = 0) -> Any:
    """The run with a part."""
    config = tiny.get_config()
    changes = {"model.scan_unroll": config.model.num_layers} | PLAIN | PARTS[part][1]
    texts = {key: value.format(growing=2 * steps // 3) for key, value in changes.items() if isinstance(value, str)}
    config.update_from_flattened_dict(changes | texts)
    config.seed = seed
    config.optimizer.update(schedule=f"wsd,decay_steps={3 * steps // 5},final_fraction=0", warmup_steps=steps // 10)
    config.train.steps = steps
    config.mesh.update(data=1, allow_idle=True)
    return config


@functools.cache
def what_all_share() -> tuple[Mesh, Corpus]:
    """The device and the data."""
    config = make_config(FIRST, STEPS)
    set_up(config.compile_cache)
    return make_mesh(config.mesh, devices=jax.devices()[:1]), prepare(config.data)


@functools.cache
def programs(part: str, steps: int) -> dict[Stage, Callable[..., Any]]:
    """The compiled step of each stage; a seed is in none of them."""
    mesh, _ = what_all_share()
    config = make_config(part, steps)
    return {stage: make_train_step(with_stage(config, stage, mesh), mesh) for stage in Growth.of(config).stages}


@functools.cache
def evaluation(part: str) -> EvalStep:
    """The compiled evaluation."""
    return make_eval_step(make_config(part, STEPS), what_all_share()[0])


def run_of(part: str, seed: int, steps: int) -> Run:
    """Trains, and evaluates eight times on the way."""
    began = time.monotonic()
    mesh, corpus = what_all_share()
    config = make_config(part, steps, seed)
    growth, train_steps, eval_step = Growth.of(config), programs(part, steps), evaluation(part)
    state, curve = init_state(config, mesh), []

    def loss_of(state: Any, limit: int) -> float:
        params = model_params(config, state)
        return evaluate(config, params, mesh, corpus=corpus, limit=limit, eval_step=eval_step)["loss"]

    batches = make_batches(config.data, corpus=corpus, seed=config.seed)
    for i, batch in enumerate(itertools.islice(batches, steps)):
        state, metrics = train_steps[growth.at(i)](state, shard_batch(batch, mesh))
        record = {"step": i + 1, "loss": float(metrics["loss"])}
        if (i + 1) % math.ceil(steps / 8) == 0:
            record["valid_loss"] = loss_of(state, SOME_BATCHES)
        curve.append(record)
    loss = loss_of(state, VALID_BATCHES)
    print(f"{part}, seed {seed}, {steps} steps: {loss:.4f} after {time.monotonic() - began:.0f} s", flush=True)
    return Run(loss, curve)


def race(part: str, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of a run with a part, and of the plain GPT's; in turn, as others may use the cores."""
    mesh, corpus = what_all_share()
    names = (part, FIRST)
    configs = [make_config(name, steps) for name in names]
    batch = shard_batch(next(make_batches(configs[0].data, corpus=corpus, seed=0)), mesh)
    states, seconds = [init_state(config, mesh) for config in configs], {}
    racers = [(i, stage, step) for i, config in enumerate(configs) for stage, step in programs(names[i], steps).items()]
    for round_ in range(ROUNDS + 1):
        for i, stage, step in racers:
            began = time.perf_counter()
            states[i], metrics = step(states[i], batch)
            jax.block_until_ready((states[i].params, metrics))
            if round_:  # the first one compiles
                seconds.setdefault((i, stage), []).append(time.perf_counter() - began)
    medians = {racer: statistics.median(times) for racer, times in seconds.items()}
    ours, theirs = (
        [medians[i, Growth.of(config).at(step)] for step in range(steps)] for i, config in enumerate(configs)
    )
    return ours, theirs


def row_of(part: str, run: RunOf, fraction: float = 1.0) -> dict[str, Any]:
    """What is found of one part."""
    steps = max(10, round(fraction * STEPS))
    ours, theirs = race(part, steps)
    ratio = sum(ours) / sum(theirs)
    same_time = steps if part == FIRST or abs(ratio - 1) < SAME else round(steps / ratio)
    runs = [run(part, seed, steps) for seed in SEEDS]
    then = runs if same_time == steps else [run(part, seed, same_time) for seed in SEEDS]
    return {
        "part": part,
        "changes": {key: flatten(make_config(part, steps))[key] for key in PARTS[part][1]},
        "params": count_params(make_model(make_config(part, steps)).config)["total"],
        "step_s": sum(ours) / steps,
        "ratio": 1.0 if part == FIRST else ratio,
        "losses": [one.loss for one in runs],
        "steps_in_same_time": same_time,
        "losses_in_same_time": [one.loss for one in then],
        # In seconds of the plain GPT's step, so that pieces that were run at different times are in one picture.
        "curve": [
            record | {"step_time": own / other} for record, own, other in zip(runs[0].curve, ours, theirs, strict=True)
        ],
    }


def read_rows() -> dict[str, dict[str, Any]]:
    """The rows that were written before by the same protocol, by part."""
    path = ROOT / "tests" / "bench" / "results" / "ablations.json"
    written = json.loads(path.read_text())["rows"] if path.exists() else {}
    return {row["part"]: row for row in written["runs"]} if written.get("protocol") == PROTOCOL else {}


def main(names: Sequence[str] = tuple(PARTS), *, fraction: float = 1.0, run: RunOf = run_of) -> None:
    """Tries the parts one after the other, and writes the table after each, unless it is a fraction.

    Args:
        names: keys of PARTS.
        fraction: of all steps.
        run: what trains.

    Raises:
        ValueError: a name is unknown, or there is no row of the plain GPT yet.
    """
    rows = read_rows() if fraction == 1.0 else {}
    for name in names:
        if name not in PARTS:
            raise ValueError(f"{name!r} is not known; use some of {', '.join(map(repr, PARTS))}")
    if FIRST not in (*names, *rows):
        raise ValueError(f"the others are held to {FIRST!r}, of which there is no row yet: name it, too")
    for name in sorted(names, key=lambda name: name != FIRST):
        rows[name] = row_of(name, run, fraction)
        ordered = [rows[one] for one in PARTS if one in rows]
        if fraction == 1.0:
            picture(ordered)
            save("ablations", {"protocol": PROTOCOL, "runs": ordered}, markdown(ordered))
        else:
            print(markdown(ordered))


def picture(rows: list[dict[str, Any]]) -> None:
    """Draws the loss of one seed of each part over minutes of training, in which the plain GPT's steps take its own."""
    runs = []
    for row in rows:
        config = make_config(row["part"], STEPS)
        config.name = PARTS[row["part"]][0]
        seconds = rows[0]["step_s"]
        runs.append(Curves(config, [record | {"step_time": record["step_time"] * seconds} for record in row["curve"]]))
    draw(runs, {}, ROOT / "docs" / "ablations.svg", over="minutes")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page."""
    data, plain = make_config(FIRST, STEPS).data, rows[0]
    lines = []
    for row in rows:
        changes = ", ".join(f"`{key.removeprefix('model.')}={value}`" for key, value in row["changes"].items())
        behind = statistics.fmean(row["losses"]) - statistics.fmean(plain["losses"])
        cells = [
            PARTS[row["part"]][0],
            "" if row["part"] == "together" else changes,
            spread(row["losses"]),
            "" if row is plain else f"{behind:+.3f}",
            f"{row['ratio']:.2f}",
            str(row["steps_in_same_time"]),
            spread(row["losses_in_same_time"]),
            f"{row['params'] / 1e6:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    said = HEADER.format(
        steps=STEPS,
        tokens=data.batch_size * data.seq_len,
        valid=VALID_BATCHES * data.batch_size * data.seq_len,
        seeds=len(SEEDS),
    )
    table = f"| {' | '.join(COLUMNS)} |\n" + "| --- " * len(COLUMNS) + "|\n" + "\n".join(lines) + "\n"
    return f"{said}{table}\n![Loss over minutes of training steps](ablations.svg)\n"


def spread(losses: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.fmean(losses):.3f} ± {statistics.stdev(losses) if len(losses) > 1 else 0:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What each part of the speed pack is worth.")
    parser.add_argument("names", nargs="*", default=[*PARTS], help=f"some of {', '.join(map(repr, PARTS))}")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the steps; less than 1 writes nothing")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    main(arguments.names, fraction=arguments.fraction)

"""The validation loss after equal time, beside the same model in PyTorch, on the embedded corpus.

    python -m tests.bench.wall_time

Both train in turns on the source files of Python's standard library, from the same parameters and on the same batches
in the same order, until each has had its time; compilation and validation do not count. It needs the extra [bench],
takes half an hour, and writes tests/bench/results/wall-time.json and docs/wall-time.md.
"""

import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from configs import base
from data import Corpus, eval_batches, make_batches, prepare
from tests.bench.peers.shapes import LEARNING_RATE, Texts, gpt2
from tests.bench.results import save
from tests.bench.throughput import COMPILED, OURS, PACKAGES, start_workers

SHAPE = gpt2(4, 256, 4, 128, 16, 4096)
SEEDS = (0, 1, 2)
SECONDS, LOOKS = 120, 4  # of training for each, and how often it is validated in between
TURN = 10  # steps
VALID_BATCHES = 32
MOST_STEPS = 3000  # that there are batches for


def data_config() -> Any:
    """Of the corpus."""
    config = base.get_config().data
    config.update(source="stdlib", vocab_size=SHAPE.vocab, seq_len=SHAPE.length, batch_size=SHAPE.rows)
    return config


def write_texts(corpus: Corpus, seed: int, path: Path) -> str:
    """Writes the batches in the order of a seed; returns their path."""
    config = data_config()
    train = make_batches(config, corpus=corpus, seed=seed, start=0)
    pairs = [(batch["inputs"], batch["targets"]) for batch, _ in zip(train, range(MOST_STEPS), strict=False)]
    held = [(one["inputs"], one["targets"]) for one in eval_batches(config, corpus=corpus, limit=VALID_BATCHES)]
    arrays = [np.stack(column) for half in (pairs, held) for column in zip(*half, strict=True)]
    np.savez(path, **Texts(*arrays)._asdict())
    return str(path)


def train(corpus: Corpus, seed: int) -> dict[str, dict[str, Any]]:
    """Of each, the losses after each part of the time, and the steps that it made."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        texts, weights = write_texts(corpus, seed, directory / "texts.npz"), str(directory / "weights.npz")
        workers = start_workers(stack, (OURS, COMPILED), seed=seed, shape=SHAPE, weights=weights, texts=texts)
        used, steps = dict.fromkeys(workers, 0.0), dict.fromkeys(workers, 10)  # `serve` makes the first ten
        losses: dict[str, list[float]] = {one: [] for one in workers}
        for look in range(1, LOOKS + 1):
            until = SECONDS * look / LOOKS
            while min(used.values()) < until:
                for one, worker in workers.items():
                    if used[one] < until:
                        used[one] += worker.seconds(TURN)
                        steps[one] += TURN
            for one, worker in workers.items():
                losses[one].append(worker.valid())
            print(seed, look, steps, {one: round(loss[-1], 4) for one, loss in losses.items()}, flush=True)
        if max(steps.values()) > MOST_STEPS:
            raise ValueError(f"MOST_STEPS={MOST_STEPS} is too small: {steps}")
        about = workers[OURS].about
        return {
            one: {"seed": seed, "steps": steps[one], "losses": losses[one], "machine": about["device"]}
            for one in workers
        }


def markdown(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The page for the docs."""
    first = rows[OURS][0]
    lines = [
        "# The loss after equal time, beside PyTorch",
        "",
        f"A GPT-2 of {SHAPE.layers} layers of {SHAPE.width}, {SHAPE.vocab:,} tokens, on the source files of Python's "
        "standard library: ",
        f"{SHAPE.rows} x {SHAPE.length} tokens a batch, float32, AdamW with a constant rate of {LEARNING_RATE:g}. In "
        f"turns on {first['machine']} with {os.cpu_count()}",
        "cores, from the same parameters and on the same batches in the same order; what compiling and validating take",
        f"does not count. Mean of {len(SEEDS)} seeds, of parameters and order, and in brackets the smallest and the "
        "largest.",
        "",
        "| | updates | " + " | ".join(f"loss after {SECONDS * i // LOOKS} s" for i in range(1, LOOKS + 1)) + " |",
        "| --- | --- |" + " --- |" * LOOKS,
    ]
    for one, runs in rows.items():
        columns = zip(*(run["losses"] for run in runs), strict=True)
        said = [f"{statistics.fmean(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in columns]
        steps = statistics.fmean(run["steps"] for run in runs)
        lines.append(f"| {one} | {steps:,.0f} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Trains with all seeds."""
    corpus = prepare(data_config())
    runs = [train(corpus, seed) for seed in SEEDS]
    rows = {one: [run[one] for run in runs] for one in runs[0]}
    save("wall-time", rows, markdown(rows), packages=PACKAGES)


if __name__ == "__main__":
    main()

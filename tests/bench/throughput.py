"""Tokens per second of a training step, beside the same model in PyTorch and others, in one run on one machine.

    python -m tests.bench.throughput [small 124m ...]
    python -m tests.bench.throughput --quick

The processes take turns (tests/bench/peers/turns.py), start from the same parameters and see the same batches; that
they compute the same, their losses show. It needs the extra [bench]. Without names it takes "small" on a CPU and the
others on a GPU. It writes tests/bench/results/throughput.json and docs/throughput.md; rows of other machines stay.
With --quick it writes nothing, and fails if our share of PyTorch's tokens per second has become smaller than the one
committed for this processor by more than a tenth.
"""

import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from parallel import has_accelerator
from tests.bench.peers.shapes import SHAPES
from tests.bench.peers.turns import Worker, take_turns
from tests.bench.results import ROOT, save

OURS, EAGER, COMPILED = "Palmette", "PyTorch", "PyTorch, torch.compile"
LINEN, TRAINER = "Flax Linen", "transformers, Trainer"
PATH = ROOT / "tests" / "bench" / "results" / "throughput.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
STEPS = 5
# Largest relative difference between two implementations' losses, in float32 and in bfloat16.
SAME = {"float32": 1e-4, "bfloat16": 1e-2}


# Module of tests/bench/peers, and what else it is given. Ours comes first, and writes the parameters.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("ours", {}),
    COMPILED: ("torch_gpt", {"compiled": True}),
    EAGER: ("torch_gpt", {}),
    LINEN: ("linen_gpt", {}),
    TRAINER: ("hf_trainer", {}),
}
ONLY_GPT2 = (LINEN, TRAINER)


def race(name: str, rounds: int = 5, who: Iterable[str] = PEERS) -> list[dict[str, Any]]:
    """A row for each who takes part; of `who`, those that have the model.

    Raises:
        ValueError: their losses differ, so they do not do the same.
    """
    shape = SHAPES[name]
    who = [one for one in who if shape.style == "gpt2" or one not in ONLY_GPT2]
    with ExitStack() as stack:
        weights = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "weights.npz"
        workers = start_workers(stack, who, shape=shape, weights=str(weights))
        check_losses({one: worker.about["losses"] for one, worker in workers.items()}, SAME[shape.dtype])
        seconds = take_turns(workers, STEPS, rounds)
        return [
            {
                "shape": name,
                **shape._asdict(),
                "machine": workers[OURS].about["device"],
                "cores": workers[OURS].about["cores"],
                "who": one,
                "seconds": each,
                "tokens_per_second": shape.tokens / statistics.median(each),
                "first_step_s": workers[one].about["first_step_s"],
                "loss": workers[one].about["losses"][-1],
            }
            for one, each in seconds.items()
        ]


def start_workers(stack: ExitStack, who: Iterable[str], *, seed: int = 0, **given: Any) -> dict[str, Worker]:
    """Starts those who take part, one after the other, so that each has the machine to itself while it compiles.

    Args:
        stack: that ends them.
        who: of `PEERS`.
        seed: of the first parameters.
        given: to all of them.
    """
    found: dict[str, Worker] = {}
    for one, (module, more) in PEERS.items():
        if one in who:
            own = more | ({"seed": seed} if one == OURS else {})
            found[one] = stack.enter_context(Worker(["-m", f"tests.bench.peers.{module}"], **given, **own))
    return found


def check_losses(losses: dict[str, list[float]], tolerance: float) -> None:
    """Checks that all have the same losses, at the first step and after ten.

    Raises:
        ValueError: they have not.
    """
    for one, theirs in losses.items():
        if any(abs(a / b - 1) > tolerance for a, b in zip(losses[OURS], theirs, strict=True)):
            raise ValueError(f"{one} has the losses {theirs} and {OURS} {losses[OURS]}: they do not do the same")


def ratio(rows: Sequence[dict[str, Any]], peer: str = COMPILED) -> float:
    """Our tokens per second in those of a peer: the median over the rounds, each of which had both."""
    ours, theirs = (next(row["seconds"] for row in rows if row["who"] == who) for who in (OURS, peer))
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def check_ratio(now: float, committed: float) -> None:
    """Checks that our share of a peer's tokens per second has not become smaller.

    Raises:
        ValueError: it has, by more than a tenth.
    """
    if now < 0.9 * committed:
        raise ValueError(f"Palmette's share of PyTorch's tokens per second is {now:.2f}, and {committed:.2f} on record")


def main(names: Sequence[str] = ()) -> None:
    """Races the shapes that are named."""
    rows = json.loads(PATH.read_text())["rows"] if PATH.exists() else []
    if "--quick" in names:
        raced = race("small", rounds=3, who=(OURS, COMPILED))
        here = ("small", raced[0]["machine"])
        now, on_record = ratio(raced), [row for row in rows if (row["shape"], row["machine"]) == here]
        if not on_record:
            raise SystemExit(
                f"{PATH.relative_to(ROOT)} has no record of {here[1]}, where our share of PyTorch's tokens per second "
                f"is {now:.2f}; make one with python -m tests.bench.throughput small"
            )
        committed = ratio(on_record)
        print(f"Palmette's share of PyTorch's tokens per second: {now:.2f}, and {committed:.2f} on record")
        return check_ratio(now, committed)
    for name in names or ([one for one in SHAPES if one != "small"] if has_accelerator() else ["small"]):
        raced = race(name)
        rows = [row for row in rows if (row["shape"], row["machine"]) != (name, raced[0]["machine"])] + raced
        save("throughput", rows, markdown(rows), packages=PACKAGES)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The page for the docs."""
    lines = [
        "# Beside PyTorch",
        "",
        "The same model, parameters, batch, precision, optimizer and clipping, in turns on the same machine; medians",
        f"of {len(rows[0]['seconds'])} rounds of {STEPS} steps. Losses after ten steps are equal to four digits in",
        "float32 and two in bfloat16, or nothing is written. PyTorch has scaled dot-product attention and the fused",
        "AdamW; Flax Linen its own layers and attention, as in its example of a language model; the Trainer of",
        "`transformers` its own GPT-2, which is not compiled. They are in `tests/bench/peers/`.",
        "",
        "| model | machine | | ms a step | tokens/s | Palmette's share | first step s | loss |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        same = [one for one in rows if (one["shape"], one["machine"]) == (row["shape"], row["machine"])]
        share = "" if row["who"] == OURS else f"{ratio(same, row['who']):.2f}"
        lines.append(
            f"| {_described(row)} | {row['machine']}, {row['cores']} cores | {row['who']} | "
            f"{1000 * statistics.median(row['seconds']):,.0f} | {row['tokens_per_second']:,.0f} | {share} | "
            f"{row['first_step_s']:.1f} | {row['loss']:.5f} |"
        )
    missing = [name for name in SHAPES if name not in {row["shape"] for row in rows}]
    lines += ["", f"Not measured: {', '.join(missing)}, for want of a GPU."] if missing else []
    return "\n".join([*lines, "", f"Python {platform.python_version()}."]) + "\n"


def _described(row: dict[str, Any]) -> str:
    model = f"{row['layers']} layers of {row['width']}, {row['vocab']:,} tokens"
    return f"{row['shape']}: {model}; {row['rows']} x {row['length']}, {row['dtype']}"


if __name__ == "__main__":
    main(sys.argv[1:])

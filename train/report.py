"""Draws loss curves: `python -m train.report --workdir runs/tiny --output docs/tiny.svg`, and others' --beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from data import make_ramp
from data.command_line import load_config, read_command_line, run_main

from .metrics import read_metrics

_NO_FIGURES = ("valid_loss", "valid_perplexity", "valid_tokens", "valid_rows")
_UNITS = {"valid_loss": "nats", "valid_bits_per_byte": "bits per byte"}


class Curves(NamedTuple):
    """What a run has recorded.

    Attributes:
        config: the run's.
        records: as `read_metrics` returns them.
    """

    config: Any
    records: list[dict[str, Any]]

    def points(self, name: str, over: str = "tokens") -> tuple[list[float], list[float]]:
        """Million tokens, padding included, or minutes of training, and the values of a metric."""
        data, minutes, before = self.config.data, 0.0, 0
        ramp = make_ramp(data.batch_ramp, data.batch_size)
        xs, ys = [], []
        for record in self.records:
            if "step_time" in record:
                minutes += (record["step"] - before) * record["step_time"] / 60
                before = record["step"]
            if name in record:
                xs.append(ramp.rows_before(record["step"]) * data.seq_len / 1e6 if over == "tokens" else minutes)
                ys.append(record[name])
        return xs, ys


# What a curve may run over -> how its axis is called.
OVER = {"tokens": "million tokens", "minutes": "minutes of training steps"}


def draw(
    runs: Sequence[Curves],
    compressed: dict[str, float],
    output: str | Path,
    *,
    metric: str = "",
    over: str = "tokens",
) -> None:
    """Draws training losses and a validation figure over tokens or over time.

    Args:
        runs: one or several.
        compressed: bits per byte of compressors on the validation text, drawn as lines.
        output: the picture; its suffix decides the format.
        metric: of the validation, such as "accuracy"; "" takes bits per byte where the first run has them, or else the
            first score of its task.
        over: a key of `OVER`; of time, evaluations, saving and compilation do not count.

    Raises:
        ValueError: there is nothing to draw, no such metric or axis, or matplotlib is not installed.
    """
    if over not in OVER:
        raise ValueError(f"--over={over} is not known; use {' or '.join(OVER)}")
    if not any("loss" in record for run in runs for record in run.records):
        raise ValueError("the run has logged no step yet: nothing to draw")
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install 'palmette[plot]'") from error
    name = _metric(runs[0].records, metric)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for run in runs:
        left.plot(*run.points("loss", over), linewidth=1)
        right.plot(*run.points(name, over), marker="o", label=run.config.name)
    title = f"{runs[0].config.name}: training loss" if len(runs) == 1 else "training loss"
    left.set(title=title, xlabel=OVER[over], ylabel="nats")
    if name == "valid_bits_per_byte":
        for style, (compressor, value) in zip(("--", ":"), compressed.items(), strict=False):
            right.axhline(value, color="gray", linestyle=style, label=f"{compressor} {value:.2f}")
    said = _UNITS.get(name, name.removeprefix("valid_").replace("_", " "))
    right.set(title="validation", xlabel=OVER[over], ylabel=said)
    right.legend()
    figure.savefig(output, metadata={"Date": None} if str(output).endswith(".svg") else None)
    plt.close(figure)


def _metric(records: Sequence[dict[str, Any]], metric: str) -> str:
    there = dict.fromkeys(name for record in records for name in record if name.startswith("valid_"))
    if metric and f"valid_{metric}" not in there:
        names = ", ".join(name.removeprefix("valid_") for name in there)
        raise ValueError(f"--metric={metric} is not recorded; there are {names}")
    figures = ["valid_bits_per_byte"] * ("valid_bits_per_byte" in there)
    figures += [name for name in there if name not in _NO_FIGURES]
    return f"valid_{metric}" if metric else next(iter(figures), "valid_loss")


def main(argv: list[str]) -> None:
    """The command."""
    options = {
        "workdir": (None, "the run's directory"),
        "beside": ("", "other runs' directories, with commas between"),
        "metric": ("", "of the validation, such as accuracy"),
        "over": ("tokens", "what the curves run over: tokens or minutes"),
        "output": (None, "the picture: .svg, .png or .pdf"),
    }
    arguments = read_command_line(argv, "train.report", __doc__ or "", options=options, config_from_workdir=True)
    flags, workdir = arguments.flags, arguments.flags["workdir"]
    others = [epath.Path(directory).expanduser() for directory in flags["beside"].split(",") if directory]
    runs = [Curves(arguments.config, read_metrics(workdir))]
    runs += [Curves(load_config(other / "config.json"), read_metrics(other)) for other in others]
    compressed = json.loads((workdir / "corpus.json").read_text())["compressed_bits_per_byte"]
    draw(runs, compressed, flags["output"], metric=flags["metric"], over=flags["over"])
    print(flags["output"])


if __name__ == "__main__":
    run_main(main)

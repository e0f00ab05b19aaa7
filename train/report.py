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

    def points(self, name: str) -> tuple[list[float], list[float]]:
        """Million tokens, padding included, and the values of a metric."""
        data = self.config.data
        ramp, in_millions = make_ramp(data.batch_ramp, data.batch_size), data.seq_len / 1e6
        rows = [(ramp.rows_before(record["step"]), record[name]) for record in self.records if name in record]
        points = [(number * in_millions, value) for number, value in rows]
        return [x for x, _ in points], [y for _, y in points]


def draw(runs: Sequence[Curves], compressed: dict[str, float], output: str | Path, *, metric: str = "") -> None:
    """Draws training losses and a validation figure over tokens.

    Args:
        runs: one or several.
        compressed: bits per byte of compressors on the validation text, drawn as lines.
        output: the picture; its suffix decides the format.
        metric: of the validation, such as "accuracy"; "" takes bits per byte where the first run has them, or else the
            first score of its task.

    Raises:
        ValueError: there is nothing to draw, no such metric, or matplotlib is not installed.
    """
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
        left.plot(*run.points("loss"), linewidth=1)
        right.plot(*run.points(name), marker="o", label=run.config.name)
    title = f"{runs[0].config.name}: training loss" if len(runs) == 1 else "training loss"
    left.set(title=title, xlabel="million tokens", ylabel="nats")
    if name == "valid_bits_per_byte":
        for style, (compressor, value) in zip(("--", ":"), compressed.items(), strict=False):
            right.axhline(value, color="gray", linestyle=style, label=f"{compressor} {value:.2f}")
    said = _UNITS.get(name, name.removeprefix("valid_").replace("_", " "))
    right.set(title="validation", xlabel="million tokens", ylabel=said)
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
        "output": (None, "the picture: .svg, .png or .pdf"),
    }
    arguments = read_command_line(argv, "train.report", __doc__ or "", options=options, config_from_workdir=True)
    flags, workdir = arguments.flags, arguments.flags["workdir"]
    others = [epath.Path(directory).expanduser() for directory in flags["beside"].split(",") if directory]
    runs = [Curves(arguments.config, read_metrics(workdir))]
    runs += [Curves(load_config(other / "config.json"), read_metrics(other)) for other in others]
    compressed = json.loads((workdir / "corpus.json").read_text())["compressed_bits_per_byte"]
    draw(runs, compressed, flags["output"], metric=flags["metric"])
    print(flags["output"])


if __name__ == "__main__":
    run_main(main)

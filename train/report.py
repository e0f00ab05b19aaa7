"""Draws a run's loss curve: `python -m train.report --workdir runs/tiny --output docs/tiny.svg`."""

import json
from pathlib import Path
from typing import Any

from data.command_line import read_command_line, run_main

from .metrics import read_metrics


def draw(config: Any, records: list[dict[str, Any]], compressed: dict[str, float], output: str | Path) -> None:
    """Draws training loss and validation bits per byte over tokens.

    Args:
        config: the run's config.
        records: as `read_metrics` returns them.
        compressed: bits per byte of compressors on the validation text, drawn as lines.
        output: the picture; its suffix decides the format.

    Raises:
        ValueError: there is nothing to draw, or matplotlib is not installed.
    """
    if not any("loss" in record for record in records):
        raise ValueError("the run has logged no step yet: nothing to draw")
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install 'palmette[plot]'") from error
    tokens_per_step = config.data.batch_size * config.data.seq_len

    def curve(name: str) -> tuple[list[float], list[float]]:
        points = [(record["step"] * tokens_per_step / 1e6, record[name]) for record in records if name in record]
        return [x for x, _ in points], [y for _, y in points]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(*curve("loss"), linewidth=1)
    left.set(title=f"{config.name}: training loss", xlabel="million tokens", ylabel="nats per token")
    right.plot(*curve("valid_bits_per_byte"), marker="o", label=config.name)
    for style, (name, value) in zip(("--", ":"), compressed.items(), strict=False):
        right.axhline(value, color="gray", linestyle=style, label=f"{name} {value:.2f}")
    right.set(title="validation", xlabel="million tokens", ylabel="bits per byte")
    right.legend()
    figure.savefig(output, metadata={"Date": None} if str(output).endswith(".svg") else None)
    plt.close(figure)


def main(argv: list[str]) -> None:
    """The command."""
    options = {"workdir": (None, "the run's directory"), "output": (None, "the picture: .svg, .png or .pdf")}
    arguments = read_command_line(argv, "train.report", __doc__ or "", options=options, config_from_workdir=True)
    workdir = arguments.flags["workdir"]
    compressed = json.loads((workdir / "corpus.json").read_text())["compressed_bits_per_byte"]
    draw(arguments.config, read_metrics(workdir), compressed, arguments.flags["output"])
    print(arguments.flags["output"])


if __name__ == "__main__":
    run_main(main)

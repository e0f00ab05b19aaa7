"""The worked tasks: each config of configs/demos trained, and evaluated on its test, beside what needs no network.

    python -m tests.bench.tasks [NAME ...]

It takes about an hour and a half for all of them, of which `instructions` needs the run of `make train`. It writes
tests/bench/results/tasks.json and docs/tasks.md; with names, the rows of the others stay.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from tests.bench.results import ROOT, save

# Of each demo: the scores that its rows show, as evaluation and as docs/baselines.md call them.
SCORES = {
    "sentiment": {"accuracy": "accuracy"},
    "topic": {"accuracy": "accuracy"},
    "entities": {"f1": "span F1"},
    "questions": {"exact_match": "exact match", "f1": "F1"},
    "translation": {"bleu": "BLEU", "chrf": "chrF"},
    "summarisation": {"rougeL": "ROUGE-L"},
    "instructions": {"rougeL": "ROUGE-L"},
}
HEADER = """# The worked tasks

Each is one command, such as `make demo-sentiment_minilm`: it trains a config of `configs/demos/` and evaluates it on
the test split of [its data](demos.md). Minutes are of both together on two CPU cores. Figures are in percent and of one
run each, beside those of [the simplest means](baselines.md). `python -m tests.bench.tasks` wrote the table.

| config | minutes | test | without a network |
|---|---|---|---|
"""
FOOTER = """
A pretrained model beats a fresh one in the same time and with the same data. On reviews the fresh model is a small one,
which sees eight times as many tokens and then gets no better:

![accuracy on reviews over minutes, from MiniLM and from random parameters](sentiment.svg)

On tweets the two are the same model on the same batches:

![F1 of entities in tweets over tokens, from MiniLM and from random parameters](entities.svg)

    python -m train.report --workdir runs/sentiment_minilm --beside runs/sentiment --metric accuracy --over minutes \\
        --output docs/sentiment.svg
    python -m train.report --workdir runs/entities_minilm --beside runs/entities --metric f1 --output docs/entities.svg
"""


def run(name: str) -> dict[str, Any]:
    """Trains and evaluates one from nothing, in runs/NAME; seconds and scores."""
    shutil.rmtree(ROOT / "runs" / name, ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}  # on one device, as users do
    began = time.monotonic()
    command = ["make", "--no-print-directory", f"demo-{name}"]
    said = subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True).stdout
    report = json.loads(said[said.rindex("\n{\n") :])
    scores = {key: value for key, value in report.items() if isinstance(value, float)}
    return {"seconds": round(time.monotonic() - began), "scores": scores}


def line(name: str, row: dict[str, Any], baselines: dict[str, Any]) -> str:
    """A line of the table."""
    demo = name.partition("_")[0]
    named = SCORES[demo]
    reached = ", ".join(f"{said} **{_percent(demo, row['scores'][key]):.1f}**" for key, said in named.items())
    others = [
        f"{baseline} {' / '.join(f'{scores[said]:.1f}' for said in named.values())}"
        for baseline, scores in baselines[demo]["scores"].items()
    ]
    return f"| `{name}` | {row['seconds'] / 60:.1f} | {reached} | {', '.join(others)} |"


def _percent(demo: str, score: float) -> float:
    """BLEU, chrF, and SQuAD's scores are in percent as they come."""
    return score if demo in ("translation", "questions") else 100 * score


def main(names: list[str]) -> None:
    """Runs those named, or all, and writes the page."""
    results = ROOT / "tests" / "bench" / "results"
    kept = json.loads((results / "tasks.json").read_text())["rows"] if (results / "tasks.json").exists() else {}
    files = sorted((ROOT / "configs" / "demos").glob("*.py"))
    known = [file.stem for file in files if file.stem not in ("__init__", "minilm")]
    if unknown := set(names) - set(known):
        raise SystemExit(f"error: no worked task {', '.join(unknown)}; there are {', '.join(known)}")
    rows = kept | {name: run(name) for name in names or known}
    baselines = json.loads((results / "baselines.json").read_text())["rows"]
    save("tasks", rows, page({name: rows[name] for name in known if name in rows}, baselines))


def page(rows: dict[str, Any], baselines: dict[str, Any]) -> str:
    """The page for the docs."""
    return HEADER + "\n".join(line(name, row, baselines) for name, row in rows.items()) + "\n" + FOOTER


if __name__ == "__main__":
    main(sys.argv[1:])

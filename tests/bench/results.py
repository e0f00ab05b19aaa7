"""Where a benchmark's figures go: a JSON with date and versions, and a page of docs/."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def save(
    name: str,
    rows: Any,
    page: str,
    *,
    packages: Sequence[str] = ("jax", "jaxlib", "flax", "optax"),
    done: str = "Measured",
) -> None:
    """Writes tests/bench/results/NAME.json and docs/NAME.md, and prints the page.

    Args:
        name: of the benchmark.
        rows: its raw figures.
        page: the text of the page, without date and versions.
        packages: whose versions count.
        done: what was done on the date that the page gives.
    """
    versions = {package: importlib.metadata.version(package) for package in packages}
    date = datetime.date.today().isoformat()
    result = {"date": date, "versions": versions, "python": platform.python_version(), "rows": rows}
    (ROOT / "tests" / "bench" / "results").mkdir(exist_ok=True)
    (ROOT / "tests" / "bench" / "results" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    said = ", ".join(f"{package} {version}" for package, version in versions.items())
    page = f"{page}\n{done} on {date} with {said}.\n"
    (ROOT / "docs" / f"{name}.md").write_text(page)
    print(page)

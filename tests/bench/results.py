"""Where a benchmark's figures go: a JSON with date and versions, and a page of docs/."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parallel import Machine, compiler_options
from train.ahead import lower_step
from train.compile import mesh_of

ROOT = Path(__file__).parents[2]


def key_of_step(config: Any, machine: Machine) -> str:
    """What a compiler is given, in a word: another program, machine or version of a compiler has another.

    Args:
        config: the whole config.
        machine: whose compiler is installed.
    """
    mesh = mesh_of(config, machine)
    text = lower_step(config, mesh).as_text()
    text = re.sub(r'backend_config = "(?:\\.|[^"\\])*"', "", text)  # a kernel's bytes name the places of sources
    given = f"{machine.name} {machine.num_slices} {compilers(machine)} {compiler_options(mesh)} {text}"
    return hashlib.sha256(given.encode()).hexdigest()[:16]


def compilers(machine: Machine) -> dict[str, str]:
    """Versions of the packages that make a program for a machine, as far as they are installed."""
    packages = {"gpu": ("jax-cuda13-plugin", "jax-cuda12-plugin"), "tpu": ("libtpu",)}.get(machine.chip.platform, ())
    found = {}
    for package in ("jax", "jaxlib", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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
        done: what was done that day; programs that do not run are "Compiled".
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

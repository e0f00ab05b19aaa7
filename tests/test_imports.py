"""Who may import whom, read from the sources: the packages stay usable, and replaceable, one by one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The packages of the project that each package may import besides itself.
ALLOWED = {
    "model": set(),
    "parallel": set(),
    "data": set(),
    "train": {"model", "parallel", "data"},
    "configs": set(),
}
FORBIDDEN = {"tensorflow", "pickle", "cloudpickle", "dill"}  # heavy; and code that runs when a file is read
CONFIGS_MAY_IMPORT = {"ml_collections", "configs"}
SOURCES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and name of each module that is imported by an absolute name, also by a literal in a call."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module


def offences(package: str, source: str, depth: int = 1) -> list[str]:
    """What a source of `package`, `depth` folders down, imports and may not, each as "line: what"."""
    tree, found = ast.parse(source), []
    for line, module in imported_modules(tree):
        top = module.partition(".")[0]
        if top in FORBIDDEN:
            found.append(f"{line}: {top} is used nowhere here")
        elif top == package and package != "configs":  # a config file is run by its path, so it has no relatives
            found.append(f"{line}: {module} is in its own package: import it relatively")
        elif top in {*ALLOWED, "tests", "notebooks"} - {package} - ALLOWED[package]:
            found.append(f"{line}: {package} may not import {top}")
        elif package == "configs" and top not in CONFIGS_MAY_IMPORT:
            found.append(f"{line}: a config may not import {top}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                found.append(f"{node.lineno}: a wildcard hides where names come from")
            if node.level > depth:
                found.append(f"{node.lineno}: a relative import leaves the package: import it absolutely")
    return found


def test_every_package_is_found():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ALLOWED)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_imports_only_what_its_package_may(path):
    parts = path.relative_to(ROOT).parts
    assert offences(parts[0], path.read_text(), depth=len(parts) - 1) == []


@pytest.mark.parametrize(
    ("package", "source", "said"),
    [
        ("model", "import train", "1: model may not import train"),
        ("model", "x = 1\nfrom parallel.mesh import AXES", "2: model may not import parallel"),
        ("parallel", "import model.layers as layers", "1: parallel may not import model"),
        ("data", "def f():\n    from model import sample", "2: data may not import model"),
        ("data", "import os, configs.base", "1: data may not import configs"),
        ("train", "from configs import base", "1: train may not import configs"),
        ("train", "import importlib\nimportlib.import_module('configs.base')", "2: train may not import configs"),
        ("train", "from tests.helpers import one_device", "1: train may not import tests"),
        ("configs", "import jax", "1: a config may not import jax"),
        ("configs", "from model import TransformerConfig", "1: configs may not import model"),
        ("data", "import tensorflow as tf", "1: tensorflow is used nowhere here"),
        ("train", "def f():\n    from pickle import loads", "2: pickle is used nowhere here"),
        ("train", "from .loop import *", "1: a wildcard hides where names come from"),
        ("train", "from train.loop import fit", "1: train.loop is in its own package: import it relatively"),
        ("model", "from ..parallel import AXES", "1: a relative import leaves the package: import it absolutely"),
    ],
)
def test_an_offending_source_is_found(package, source, said):
    assert offences(package, source) == [said]


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("model", "import jax\nfrom .layers import rope\nfrom . import flops"),
        ("train", "from data import prepare\nfrom model import Transformer\nfrom .loop import fit"),
        ("data", "import tensorflow_datasets as tfds"),
        ("configs", "from ml_collections import ConfigDict\nfrom configs import base"),
        ("train", "models = 1\n# import pickle\n'import configs'"),
    ],
)
def test_a_proper_source_is_not_accused(package, source):
    assert offences(package, source) == []

"""Packages of the extra [formats], imported when a source needs them."""

import importlib
from typing import Any


def from_extra(module: str, needed_for: str) -> Any:
    """Imports a module of the extra.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{needed_for} needs {module.partition('.')[0]}: pip install 'palmette[formats]' ({error})"
        ) from error

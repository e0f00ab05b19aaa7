"""Which parameters are trained: all, some by name, or low-rank adapters beside frozen ones.

The step differentiates the trained parameters alone; `join` makes the model's parameters of them and of the frozen
base. Optimizer moments and checkpoints are of the trained ones.
"""

import dataclasses
import functools
import math
import re
import zlib
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from data.options import choose

from .parameters import Matrix, matrix_of

ADAPTERS = ("lora_a", "lora_b")  # in the place of the matrix that they adapt
BESIDE = "distill"  # parameters of an objective, no part of the model; always trained
_LETTERS = "abcdefgh"  # of a matrix's dims; "r" is the rank


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """What is trained.

    Attributes:
        kind: "all", "matching", "frozen" (all but what matches) or "lora".
        names: a pattern of the parameters that are trained, frozen or adapted.
        also: lora: a pattern of those that are trained as they are.
        rank: lora: r.
        alpha: lora: the adapters count alpha / r.
    """

    kind: str
    names: str = ""
    also: str = ""
    rank: int = 8
    alpha: float = 16.0


def _all() -> TrainedPart:
    return TrainedPart("all")


def _matching(*, names: str = "") -> TrainedPart:
    return TrainedPart("matching", names)


def _frozen(*, names: str = "") -> TrainedPart:
    return TrainedPart("frozen", names)


def _lora(*, rank: int = 8, alpha: float = 16.0, names: str = "attention/w_[qv]$", also: str = "") -> TrainedPart:
    return TrainedPart("lora", names, also, rank, alpha)


KINDS = {"all": _all, "matching": _matching, "frozen": _frozen, "lora": _lora}


def trained_part(config: Any) -> TrainedPart:
    """What `config.train.parameters` says.

    Raises:
        ValueError: it names the key, the value and a legal choice.
    """
    key, text = "config.train.parameters", config.train.parameters
    choice: TrainedPart = choose(key, text, KINDS).make()
    for option, pattern in (("names", choice.names), ("also", choice.also)):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{key}={text!r}: {option}={pattern!r} is no pattern: {error}") from error
    if choice.kind != "all" and not choice.names:
        raise ValueError(f"{key}={text!r} needs a pattern of parameters' names, as in '{choice.kind},names=layers/'")
    if choice.kind == "lora" and (choice.rank < 1 or choice.alpha <= 0):
        raise ValueError(f"{key}={text!r}: rank must be at least 1, and alpha above 0")
    return choice


def divide(choice: TrainedPart, params: Any) -> tuple[Any, Any]:
    """Divides a model's parameters by their names.

    Args:
        choice: of `trained_part`.
        params: nested dicts; the leaves may be anything.

    Returns:
        Those that are trained, without adapters, and the others; both as nested dicts.
    """
    flat: Any = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if _is_trained(choice, "/".join(path))}
    return unflatten_dict(trained), unflatten_dict({path: flat[path] for path in flat if path not in trained})


def _is_trained(choice: TrainedPart, name: str) -> bool:
    if choice.kind == "all" or name.startswith(f"{BESIDE}/"):
        return True
    if choice.kind == "lora":
        return bool(choice.also and re.search(choice.also, name))
    return bool(re.search(choice.names, name)) == (choice.kind == "matching")


def _is_adapted(choice: TrainedPart, name: str) -> bool:
    return choice.kind == "lora" and not _is_trained(choice, name) and bool(re.search(choice.names, name))


def check_names(config: Any, names: Iterable[str]) -> None:
    """Checks that the patterns of `config.train.parameters` find what they are to find.

    Args:
        config: the whole config.
        names: of the model's parameters.

    Raises:
        ValueError: one finds nothing, or nothing is left to train; it lists some names.
    """
    choice, names = trained_part(config), list(names)
    said = f"config.train.parameters={config.train.parameters!r}"
    of_kind = [name for name in names if choice.kind != "lora" or matrix_of(name)]
    for option, pattern, legal in (("names", choice.names, of_kind), ("also", choice.also, names)):
        if pattern and not any(re.search(pattern, name) for name in legal):
            raise ValueError(f"{said}: {option}={pattern!r} is in no name; there are {_some(legal)}")
    if not any(_is_trained(choice, name) or _is_adapted(choice, name) for name in names):
        raise ValueError(f"{said} leaves nothing to train: it matches all of {_some(names)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def add_adapters(choice: TrainedPart, trained: Any, base: Any, key: Array) -> Any:
    """Adds the adapters of a choice to what is trained (Hu et al. 2021, arXiv:2106.09685, section 4.1).

    A matrix W gets A, normal with standard deviation 1 / sqrt(inputs), and B, zero, so that nothing changes at first.

    Args:
        choice: of `trained_part`.
        trained: of `divide`.
        base: of `divide`; leaves boxed with their logical axes, as Linen's `init` returns them.
        key: of the initial values.

    Returns:
        `trained` with the adapters, boxed too.
    """
    flat: Any = flatten_dict(trained)
    for path, box in flatten_dict(base).items():
        name = "/".join(path)
        matrix = matrix_of(name)
        if matrix is not None and _is_adapted(choice, name):
            made = _adapters(matrix, box, choice.rank, jax.random.fold_in(key, zlib.crc32(name.encode())))
            flat |= {(*path, part): value for part, value in zip(ADAPTERS, made, strict=True)}
    return unflatten_dict(flat)


def _adapters(matrix: Matrix, box: Any, rank: int, key: Array) -> tuple[Any, Any]:
    """A and B of a matrix, whose layers and experts come first in both."""
    dims = list(zip(box.value.shape, box.names, strict=True))
    is_output = [i in matrix.outputs for i in range(len(dims))]
    is_batch = [i not in matrix.inputs + matrix.outputs for i in range(len(dims))]
    a_dims = [dim for dim, skip in zip(dims, is_output, strict=True) if not skip] + [(rank, "rank")]
    b_dims = [dim for dim, keep in zip(dims, is_batch, strict=True) if keep] + [(rank, "rank")]
    b_dims += [dim for dim, keep in zip(dims, is_output, strict=True) if keep]
    (a_shape, a_axes), (b_shape, b_axes) = (zip(*of, strict=True) for of in (a_dims, b_dims))
    std = math.prod(box.value.shape[i] for i in matrix.inputs) ** -0.5
    a = std * jax.random.normal(key, a_shape, jnp.float32)
    return nn.LogicallyPartitioned(a, a_axes), nn.LogicallyPartitioned(jnp.zeros(b_shape, jnp.float32), b_axes)


def join(choice: TrainedPart, trained: Any, base: Any) -> Any:
    """The model's parameters.

    Args:
        choice: of `trained_part`.
        trained: as `divide` and `add_adapters` made it.
        base: what is frozen.

    Returns:
        All parameters, an adapted matrix as W + alpha / rank * A B (arXiv:2106.09685, eq. 3).
    """
    flat: Any = flatten_dict(trained)
    whole: Any = flatten_dict(base)
    for path, leaf in flat.items():
        *matrix, last = path
        if last == ADAPTERS[0]:
            at, b = tuple(matrix), flat[*matrix, ADAPTERS[1]]
            whole[at] = _adapted("/".join(at), choice.alpha / choice.rank, whole[at], leaf, b)
        elif last != ADAPTERS[1]:
            whole[path] = leaf
    return unflatten_dict(whole)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _adapted(name: str, scale: float, w: Array, a: Array, b: Array) -> Array:
    matrix = matrix_of(name)
    assert matrix is not None
    letters = _LETTERS[: w.ndim]
    outputs = "".join(letters[i] for i in matrix.outputs)
    outer = "".join(letters[i] for i in range(w.ndim) if i not in matrix.inputs + matrix.outputs)
    a_letters = "".join(letter for letter in letters if letter not in outputs) + "r"
    spec = f"{a_letters},{outer}r{outputs}->{letters}"
    return w + scale * jnp.einsum(spec, a, b, precision=jax.lax.Precision.HIGHEST)

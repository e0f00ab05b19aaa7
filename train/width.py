"""Learning rates that follow the width: the optimizer's part of `config.model.init="mup,width=256"`.

`model/init.py` has the whole table. What is scaled is the direction, before weight decay is added to it: a step of
decay stays learning_rate * weight_decay at every width, as what a matrix has learned is then forgotten in the same
number of steps (Wang and Aitchison 2024, arXiv:2405.13698), without which muP's rates do not transfer over long runs
(Kosson et al. 2025, arXiv:2510.19093); it is also the default of the authors' package `mup`, whose MuAdamW multiplies
the decay by what it divides the rate by.
"""

from typing import Any

import jax
import optax
from jax import Array

from model import Choice, parse_choice
from model.choices import CHOICES

from .parameters import matrix_of, parameter_name
from .trainable import ADAPTERS, BESIDE

# Their inputs do not grow with the width; or, of the head, the factor of the logits does what a rate would.
_ENDS = ("embedding", "value_embedding", "patches", "head")


def scale_by_width(config: Any) -> optax.GradientTransformation:
    """Multiplies directions by `width_factor`; it has no state."""
    init = _init(config)
    ratio = config.model.d_model / init.width if init.kind == "mup" else 1.0
    if ratio == 1.0:
        return optax.identity()

    def scaled(path: tuple[Any, ...], direction: Array) -> Array:
        return direction * width_factor(parameter_name(path), ratio)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def width_factor(name: str, ratio: float) -> float:
    """The factor of a parameter's learning rate (Yang et al. 2022, arXiv:2203.03466, table 8, for Adam).

    Of adapters A maps the width to the rank, and B back: 1 / ratio and 1 (LoRA+, Hayou et al. 2024, arXiv:2402.12354).

    Args:
        name: of the parameter.
        ratio: the width over the one that learning rates were found at.
    """
    matrix, _, last = name.rpartition("/")
    if last in ADAPTERS:
        return width_factor(matrix, ratio) if last == ADAPTERS[0] else 1.0
    is_matrix = matrix_of(name) is not None or name.startswith(f"{BESIDE}/")
    return 1 / ratio if is_matrix and name.split("/")[0] not in _ENDS else 1.0


def refuse_mup(config: Any, why: str) -> None:
    """Refuses an optimizer whose rates do not follow the width as Adam's do.

    Raises:
        ValueError: `config.model.init` is "mup".
    """
    if is_mup(config):
        raise ValueError(
            f"config.model.init={config.model.init!r} does not go with config.optimizer.name="
            f"{config.optimizer.name!r}: {why}; use adamw, adam, rmsprop, lion, schedule_free, muon, or 'standard'"
        )


def is_mup(config: Any) -> bool:
    """Whether a config's model is in the maximal update parametrisation."""
    return _init(config).kind == "mup"


def _init(config: Any) -> Choice:
    return parse_choice("config.model.init", config.model.init, CHOICES["init"])

"""What the name of a parameter tells: above all, of a matrix, what it maps to what.

Muon, SOAP, Adafactor and LoRA, which treat matrices by their inputs and outputs, read the one table. A new kind of
matrix is one row.
"""

import re
from typing import Any, NamedTuple


def parameter_name(path: tuple[Any, ...]) -> str:
    """The name of a parameter from its path in the tree, such as "layers/attention/w_q"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


class Matrix(NamedTuple):
    """A kind of matrix.

    Attributes:
        inputs: the dims that its input runs over.
        outputs: the dims that its output has; all others are batches, such as stacked layers and experts.
        hidden: whether Muon and SOAP update it.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    hidden: bool = False


MATRICES = {
    r"layers/attention/w_[qkv]$": Matrix((1,), (2, 3), hidden=True),
    r"layers/attention/w_out$": Matrix((1, 2), (3,), hidden=True),
    r"layers/mlp/w_(in|gate|out)$": Matrix((1,), (2,), hidden=True),
    r"layers/moe/w_(in|gate|out)$": Matrix((2,), (3,), hidden=True),  # of each expert
    r"layers/moe/w_router$": Matrix((1,), (2,)),
    r"layers/shared_mlp/w_(in|gate|out)$": Matrix((1,), (2,)),
    r"layers/cross_attention/w_[qkv]$": Matrix((1,), (2, 3)),
    r"layers/cross_attention/w_out$": Matrix((1, 2), (3,)),
    r"layers/attention/w_(q|kv)_down$": Matrix((1,), (2,)),  # latent attention
    r"layers/attention/w_(q|kv)_up$": Matrix((1,), (2, 3)),
    r"layers/w_[xh]$": Matrix((1,), (2, 3)),  # of an LSTM: to its gates
    r"^(pooler|classifier|head_transform|patches)/w$": Matrix((0,), (1,)),
    r"^(value_)?embedding$": Matrix((0,), (1,)),
    r"^head$": Matrix((1,), (0,)),
}


def matrix_of(name: str) -> Matrix | None:
    """What a parameter maps, by its name such as "layers/attention/w_q"; None if it is no matrix."""
    found = [matrix for pattern, matrix in MATRICES.items() if re.search(pattern, name)]
    return found[0] if found else None


def stacked_dims(name: str, num_dims: int) -> tuple[int, ...]:
    """The dims of a parameter that number things alike, layers and their experts, each with parameters of its own."""
    matrix = matrix_of(name)
    if matrix is not None:
        return tuple(dim for dim in range(num_dims) if dim not in matrix.inputs + matrix.outputs)
    if not name.partition("/")[0].endswith("layers"):
        return ()
    return (0, 1) if "/moe/b_" in name else (0,)

"""One dial for compute-optimal runs, `config.model.depth`: size, batch, schedule and learning rate follow from it.

The dial is nanochat's idea (https://github.com/karpathy/nanochat); here depth 4 is the model of `configs/base.py`.
With N parameters, embeddings included, T = `config.data.seq_len`, and C = 6 * N * tokens operations:

| `config.` | from | rule |
| --- | --- | --- |
| `model.num_layers` | depth | depth |
| `model.d_model` | layers | 64 * layers |
| `model.num_heads` | width | width / `model.head_dim`, or / 64 |
| `model.num_kv_heads` | heads | as many |
| `model.d_mlp` | width | 4 * width; gated 8 / 3 * width, up to a multiple of 64 (Shazeer 2020, arXiv:2002.05202) |
| tokens | N | 20 * N (Hoffmann et al. 2022, arXiv:2203.15556, table 3) |
| `data.batch_size` | C | 0.2920 * C^0.3271 tokens (`best_batch_and_rate`); rows are the nearest power of two |
| `train.steps` | tokens | tokens / (rows * T), up |
| `optimizer.warmup_steps` | N | N tokens, a twentieth of the run (Porian et al. 2024, arXiv:2406.19146) |
| `optimizer.learning_rate` | C | 0.3118 * C^-0.1250; not with "mup", where what was tuned holds |

Batch and rate were fitted to AdamW from 1e17 operations on, about those of depth 8; below they are extrapolated.
The rate is derived for optimizers whose steps are Adam's, for those parameters that are: Muon's own rate stays.
"""

import math
from collections.abc import Callable
from typing import Any

from model import count_params
from model.layers import ACTIVATIONS

from .compose import model_config
from .width import is_mup

# Fields that are derived while they have their defaults, those of configs/base.py; what is set to another value stays.
DEFAULTS = {
    "model.num_layers": 4,
    "model.d_model": 256,
    "model.num_heads": 4,
    "model.num_kv_heads": 4,
    "model.d_mlp": 1024,
    "data.batch_size": 16,
    "train.steps": 1000,
    "optimizer.warmup_steps": 100,
    "optimizer.learning_rate": 1e-3,
}
_LIKE_ADAM = ("adamw", "adam", "soap", "muon", "schedule_free")
_HEAD_DIM, _TOKENS_PER_PARAMETER = 64, 20


def with_depth(config: Any, log: Callable[[str], None] = lambda line: None) -> Any:
    """A plain config, with depth 0, in which the fields of `DEFAULTS` say what a depth asks for.

    Args:
        config: the whole config; with `config.model.depth=0` it is returned as it is. A field that has another value
            than its default keeps it, and the others follow from it.
        log: called with two lines for people.

    Raises:
        ValueError: the depth is negative, the rules are not for such a model, or a value that is kept does not fit.

    Example:
        with_depth(config).train.steps
    """
    depth = config.model.depth
    if not depth:
        return config
    _check(config)
    config = config.copy_and_resolve_references()
    config.model.depth = 0
    kept = {key for key, default in DEFAULTS.items() if _get(config, key) != default}
    if is_mup(config) or config.optimizer.name.partition(",")[0].strip() not in _LIKE_ADAM:
        kept.add("optimizer.learning_rate")

    def take(key: str, value: float) -> None:
        if key not in kept:
            config.update_from_flattened_dict({key: value})

    m, data = config.model, config.data
    take("model.num_layers", depth)
    take("model.d_model", _HEAD_DIM * m.num_layers)
    take("model.num_heads", max(1, m.d_model // (m.head_dim or _HEAD_DIM)))
    take("model.num_kv_heads", m.num_heads)
    gated = m.activation in ACTIVATIONS and ACTIVATIONS[m.activation].gated  # an unknown one is an error below
    take("model.d_mlp", 64 * math.ceil(m.d_model / 24) if gated else 4 * m.d_model)
    params = count_params(model_config(config))["total"]
    tokens = _TOKENS_PER_PARAMETER * params
    operations = 6 * params * tokens
    best_tokens, best_rate = best_batch_and_rate(operations)
    take("data.batch_size", 2 ** max(0, round(math.log2(best_tokens / data.seq_len))))
    step_tokens = data.batch_size * data.seq_len
    take("train.steps", math.ceil(tokens / step_tokens))
    take("optimizer.warmup_steps", min(round(params / step_tokens), config.train.steps - 1))
    take("optimizer.learning_rate", float(f"{best_rate:.3g}"))

    tokens = config.train.steps * step_tokens
    said = {fate: [k for k in DEFAULTS if (k in kept) == (fate == "kept")] for fate in ("derived", "kept")}
    log(
        f"config.model.depth={depth}: {params:,} parameters, {tokens:,} tokens, {tokens / params:.1f} a parameter, "
        f"{6 * params * tokens:.1e} operations"
    )
    log("; ".join(f"{f}: {', '.join(f'{k}={_get(config, k)}' for k in keys)}" for f, keys in said.items() if keys))
    return config


def best_batch_and_rate(operations: float) -> tuple[float, float]:
    """Tokens of a batch, and AdamW's peak learning rate (DeepSeek LLM 2024, arXiv:2401.02954, eq. 1).

    Args:
        operations: floating-point operations of the whole training.
    """
    return 0.2920 * operations**0.3271, 0.3118 * operations**-0.1250


def _check(config: Any) -> None:
    if config.model.depth < 0:
        raise ValueError(f"config.model.depth={config.model.depth} must be 0 (off) or more")
    for key, plain in {"model.image": "", "model.num_experts": 0, "data.batch_ramp": ""}.items():
        if _get(config, key) != plain:
            raise ValueError(
                f"config.model.depth={config.model.depth} is for dense models of text with batches of one size, "
                f"not for config.{key}={_get(config, key)!r}; use config.{key}={plain!r} or depth=0"
            )


def _get(config: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section][name]

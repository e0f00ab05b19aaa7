"""Rotary positions and windows of attention, as Hugging Face's configs say them: by new keys and by old ones."""

import math
from collections.abc import Mapping
from typing import Any

from .family import Config, choice, no_counterpart, options, windowed_layers

FULL, SLIDING = "full_attention", "sliding_attention"
ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")


def read_rope(
    config: Mapping[str, Any],
    *,
    theta: float = 10000.0,
    theta_key: str = "rope_theta",
    fraction: float | None = None,
    fraction_key: str = "partial_rotary_factor",
    local_theta_key: str = "",
    local_theta: float = 0.0,
) -> Config:
    """The core's fields of rotary positions.

    transformers 5 has one dict, `rope_parameters`; 4 has `rope_theta` and `rope_scaling`, which 5 prefers where both
    are there.

    Args:
        config: the contents of config.json.
        theta: the base where none is given.
        theta_key: where transformers 4 has it.
        fraction: of a head that turns where none is given; None if the family turns the whole head.
        fraction_key: where transformers 4 has it.
        local_theta_key: where transformers 4 has the base of the layers with a window; "" if all have one base.
        local_theta: that base where none is given.

    Returns:
        position, rope_theta and rope_scaling.

    Raises:
        ValueError: the core has no such positions, or old and new keys differ.
    """
    new, old = dict(config.get("rope_parameters") or {}), dict(config.get("rope_scaling") or {})
    local = {**(new.get(SLIDING) or {})}
    new = {**(new.get(FULL) or {})} if FULL in new or SLIDING in new else new
    thetas = {float(d[key]) for d, key in ((new, "rope_theta"), (old, "rope_theta"), (config, theta_key)) if d.get(key)}
    if len(thetas) > 1:
        raise ValueError(
            f"config.json: rope_parameters and {theta_key} give the bases {sorted(thetas)}; delete the wrong one"
        )
    scaling = old or new
    said: Config = {}
    if fraction is not None:
        said["fraction"] = float(new.get("partial_rotary_factor") or config.get(fraction_key) or fraction)
    elif (new.get("partial_rotary_factor") or config.get(fraction_key) or 1.0) != 1.0:
        raise no_counterpart(fraction_key, new.get("partial_rotary_factor") or config[fraction_key], (1.0,))
    if local_theta_key:
        if local.get("rope_type", "default") != "default":
            raise no_counterpart(f"rope_parameters.{SLIDING}.rope_type", local["rope_type"], ("default",))
        said["local_theta"] = float(local.get("rope_theta") or config.get(local_theta_key) or local_theta)
    return {
        "position": choice("rope", **said),
        "rope_theta": thetas.pop() if thetas else theta,
        "rope_scaling": _read_scaling(scaling, config),
    }


def _read_scaling(scaling: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    kind = {"su": "longrope"}.get(kind, kind)
    if kind not in ROPE_TYPES:
        raise no_counterpart("rope_parameters.rope_type", kind, ROPE_TYPES)
    if kind == "default":
        return ""
    if kind == "linear":
        return choice(kind, factor=float(scaling["factor"]))
    longest = config["max_position_embeddings"]
    length = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings", longest)
    if kind == "llama3":
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        return choice(kind, factor=float(scaling["factor"]), low=low, high=high, length=length)
    factor = float(scaling.get("factor") or longest / length)
    if kind == "longrope":
        short, long = (tuple(map(float, scaling[f"{name}_factor"])) for name in ("short", "long"))
        scale = scaling.get("attention_factor") or longrope_scale(factor, length)
        return choice(kind, length=length, short=short, long=long, scale=scale)
    if scaling.get("truncate", True) is not True:
        raise no_counterpart("rope_parameters.truncate", scaling["truncate"], (True,))
    scale = scaling.get("attention_factor")
    if scale is None:
        above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
        scale = yarn_scale(factor, above) / yarn_scale(factor, below) if above and below else yarn_scale(factor)
    fast, slow = float(scaling.get("beta_fast") or 32), float(scaling.get("beta_slow") or 1)
    return choice(kind, factor=factor, length=length, fast=fast, slow=slow, scale=float(scale))


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies the attention's logits by, under the root (Peng et al. 2023, arXiv:2309.00071, eq. 22)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_scale(factor: float, length: int) -> float:
    """The same of LongRoPE (Ding et al. 2024, arXiv:2402.13753)."""
    return math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0


def write_rope(
    core: Config,
    *,
    theta_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    has_fraction: bool = False,
    local_theta_key: str = "",
) -> Config:
    """Both the new keys and the old: whichever a version of transformers reads, it finds the same."""
    position, theta = options(core["position"]), float(core["rope_theta"])
    scaling = _write_scaling(core)
    new: Config = {"rope_type": "default", "rope_theta": theta, **scaling}
    written: Config = {theta_key: theta, "rope_scaling": scaling or None}
    if has_fraction:
        new["partial_rotary_factor"] = written[fraction_key] = position["fraction"]
    if local_theta_key:
        written[local_theta_key] = float(position["local_theta"])
        new = {FULL: new, SLIDING: {"rope_type": "default", "rope_theta": float(position["local_theta"])}}
    return {**written, "rope_parameters": new}


def _write_scaling(core: Config) -> Config:
    scaling = options(core["rope_scaling"])
    if not scaling["kind"]:
        return {}
    written: Config = {"rope_type": scaling["kind"]}
    if "factor" in scaling:
        written["factor"] = scaling["factor"]
    if "length" in scaling:
        written["original_max_position_embeddings"] = scaling["length"]
    match scaling["kind"]:
        case "llama3":
            written |= {"low_freq_factor": scaling["low"], "high_freq_factor": scaling["high"]}
        case "yarn":
            written |= {"beta_fast": scaling["fast"], "beta_slow": scaling["slow"]}
            written["attention_factor"] = float(scaling["scale"])
        case "longrope":
            written |= {"short_factor": _numbers(scaling["short"]), "long_factor": _numbers(scaling["long"])}
            written["attention_factor"] = float(scaling["scale"])
    return written


def _numbers(value: Any) -> list[float]:
    return list(value) if isinstance(value, list) else [float(value)]


def read_windows(window: int | None, layer_types: list[str] | None) -> Config:
    """The core's fields of a window that the layers of one type have; without types, all have it."""
    if unknown := set(layer_types or ()) - {FULL, SLIDING}:
        raise no_counterpart("layer_types", unknown.pop(), (FULL, SLIDING))
    letters = "".join("L" if kind == SLIDING else "G" for kind in layer_types or [SLIDING])
    if not window or "L" not in letters:
        return {"window": 0, "layer_pattern": ""}
    periods = (n for n in range(1, len(letters) + 1) if all(c == letters[i % n] for i, c in enumerate(letters)))
    pattern = letters[: next(periods)]
    return {"window": window, "layer_pattern": "" if pattern == "L" else pattern}


def write_layer_types(core: Config) -> list[str]:
    """The type of each layer."""
    return [SLIDING if is_local else FULL for is_local in windowed_layers(core)]

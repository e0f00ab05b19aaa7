"""What the fields of a model may say: a name, or a kind with options, "kind,option=value"."""

from collections.abc import Mapping
from typing import Any

from .layers import ACTIVATIONS, NORMS
from .rope import SCALINGS

# Field -> its legal names.
NAMES = {
    "activation": tuple(ACTIVATIONS),
    "block": ("pre", "post", "output", "both", "parallel", "lstm"),
    "norm": NORMS,
    "bias": ("none", "qkv", "all"),
    "embedding_norm": ("none", "norm", "first"),
    "head": ("linear", "bias", "transform"),
    "qk_norm": ("none", "head", "all"),
}
_ROUTER = {"normalize": 1, "groups": 1, "top_groups": 1, "scale": 1.0}
# Field -> its legal kinds -> their options and defaults, as `parse_choice` takes them.
CHOICES: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "architecture": {"decoder": {}, "encoder": {}, "encoder_decoder": {"encoder_layers": 0}},
    "position": {
        "rope": {"fraction": 1.0, "local_theta": 0.0},
        "learned": {"offset": 0},
        "sinusoidal": {},
        "relative": {"buckets": 32, "distance": 128},
        "none": {},
    },
    "rope_scaling": SCALINGS,
    "classifier": {"": {}} | {kind: {"classes": int} for kind in ("first", "tanh", "mean", "last", "tokens")},
    "latent_attention": {"": {}, "latent": {"kv": int, "rope": int, "value": int, "query": 0}},
    "value_mix": {"": {}, "first_layer": {}, "embedding": {"tables": 2}, "first_layer+embedding": {"tables": 2}},
    "init": {
        "standard": {"std": 0.02, "zero_outputs": 0},
        "mup": {"width": int, "head_dim": 0, "std": 0.02, "zero_outputs": 0},
    },
    "router": {"softmax": _ROUTER, "sigmoid": _ROUTER},
    "image": {"": {}, "patches": {"size": int, "patch": int, "channels": 3}},
    "dtype": {"float32": {"products": ""}, "bfloat16": {"products": ""}},  # float16 would need loss scaling
}

"""ViT: the encoder on squares of an image, with a classifier on the first token."""

from collections.abc import Collection, Mapping
from typing import Any

from .bert_like import KEYS as BERT_KEYS
from .bert_like import num_labels, write_labels
from .family import UNGATED, Config, Family, choice, options, read_activation, read_keys, write_activation, write_keys
from .tables import attention, dense, mlp, norm

KEYS = {name: BERT_KEYS[name] for name in ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_mlp", "norm_eps")}
LAYER = "vit.encoder.layer.{i}."
PROJECTIONS = {name: f"{LAYER}attention.attention.{name}" for name in ("query", "key", "value")}
WEIGHTS = {
    "vit.embeddings.cls_token": "first_token: 1 1 D -> D",
    "vit.embeddings.position_embeddings": "positions: 1 T D -> T D",
    **dense("vit.embeddings.patch_embeddings.projection", "patches/w: D c h w -> (h w c) D", "b: D"),
    **norm(f"{LAYER}layernorm_before", "layers/attention_norm"),
    **attention("layers/attention", **PROJECTIONS, out=f"{LAYER}attention.output.dense"),
    **norm(f"{LAYER}layernorm_after", "layers/mlp_norm"),
    **mlp("layers/mlp", first=f"{LAYER}intermediate.dense", last=f"{LAYER}output.dense"),
    **norm("vit.layernorm", "final_norm"),
    **dense("classifier", "classifier/w: Z D -> D Z", "b: Z"),
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    size, patch, channels = config["image_size"], config["patch_size"], config["num_channels"]
    return {
        **read_keys(config, KEYS),
        "architecture": "encoder",
        "image": choice("patches", size=size, patch=patch, channels=channels),
        "max_length": (size // patch) ** 2 + 1,
        "activation": read_activation(config, "hidden_act", UNGATED),
        "norm": "layernorm",
        "bias": "all",
        "position": "learned",
        "classifier": choice("first", classes=num_labels(config)),
    }


def _write(core: Config) -> Config:
    image = options(core["image"])
    return {
        **write_keys(core, KEYS),
        **write_labels(core["classifier"]),
        **{key: image.get(name) for key, name in (("image_size", "size"), ("patch_size", "patch"))},
        "num_channels": image["channels"],
        "hidden_act": write_activation(core, UNGATED),
    }


VIT = Family(
    model_type="vit",
    architecture="ViTForImageClassification",
    read=_read,
    write=_write,
    weights=WEIGHTS,
    defaults={"hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3},
    legal={"qkv_bias": (True,)},
)

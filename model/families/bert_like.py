"""What BERT and RoBERTa share, and of it what other encoders do."""

from collections.abc import Mapping
from typing import Any

from .family import UNGATED, Config, options, read_activation, read_keys, write_activation, write_keys
from .tables import attention, dense, mlp, norm

KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_attention_heads",
    "d_mlp": "intermediate_size",
    "max_length": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "token_types": "type_vocab_size",
}
DEFAULTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "tie_word_embeddings": True, "type_vocab_size": 2}
DEFAULTS |= {"max_position_embeddings": 512}
LEGAL = {"is_decoder": (False,), "add_cross_attention": (False,), "position_embedding_type": ("absolute",)}
OLD_NORMS = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


def encoder(prefix: str) -> dict[str, str]:
    """The names of all but the heads."""
    layer = prefix + "encoder.layer.{i}."
    projections = {name: f"{layer}attention.self.{name}" for name in ("query", "key", "value")}
    return {
        f"{prefix}embeddings.word_embeddings.weight": "embedding: V D",
        f"{prefix}embeddings.position_embeddings.weight": "positions: T D",
        f"{prefix}embeddings.token_type_embeddings.weight": "token_types: Y D",
        **norm(f"{prefix}embeddings.LayerNorm", "embedding_norm"),
        **attention("layers/attention", **projections, out=f"{layer}attention.output.dense"),
        **norm(f"{layer}attention.output.LayerNorm", "layers/attention_norm"),
        **mlp("layers/mlp", first=f"{layer}intermediate.dense", last=f"{layer}output.dense"),
        **norm(f"{layer}output.LayerNorm", "layers/mlp_norm"),
        **dense(f"{prefix}pooler.dense", "pooler/w: E D -> D E", "b: D"),
    }


def read_bert(config: Mapping[str, Any]) -> Config:
    """All but the heads."""
    return {
        **read_keys(config, KEYS),
        "architecture": "encoder",
        "activation": read_activation(config, "hidden_act", UNGATED),
        "block": "post",
        "norm": "layernorm",
        "bias": "all",
        "position": "learned",
        "embedding_norm": "norm",
    }


def write_bert(core: Config) -> Config:
    """The way back."""
    labels = write_labels(core["classifier"]) if core["classifier"] else {}
    return {**write_keys(core, KEYS), "hidden_act": write_activation(core, UNGATED), **labels}


def num_labels(config: Mapping[str, Any]) -> int:
    """The classes of a classifier."""
    return len(config.get("id2label") or ()) or config.get("num_labels", 2)


def write_labels(classifier: str) -> Config:
    """The way back."""
    labels = [f"LABEL_{i}" for i in range(options(classifier).get("classes", 0))]
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}

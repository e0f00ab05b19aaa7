"""BERT, bare or with its heads, and what RoBERTa shares."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import UNGATED, Config, Family, choice, options, read_activation, read_keys, write_activation, write_keys

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
    return {
        f"{prefix}embeddings.word_embeddings.weight": "embedding: V D",
        f"{prefix}embeddings.position_embeddings.weight": "positions: T D",
        f"{prefix}embeddings.token_type_embeddings.weight": "token_types: Y D",
        **norm(f"{prefix}embeddings.LayerNorm", "embedding_norm"),
        **dense(f"{layer}attention.self.query", "layers/attention/w_q: (N H) D -> D N H", "b_q: (N H) -> N H"),
        **dense(f"{layer}attention.self.key", "layers/attention/w_k: (K H) D -> D K H", "b_k: (K H) -> K H"),
        **dense(f"{layer}attention.self.value", "layers/attention/w_v: (K H) D -> D K H", "b_v: (K H) -> K H"),
        **dense(f"{layer}attention.output.dense", "layers/attention/w_out: D (N H) -> N H D", "b_out: D"),
        **norm(f"{layer}attention.output.LayerNorm", "layers/attention_norm"),
        **dense(f"{layer}intermediate.dense", "layers/mlp/w_in: F D -> D F", "b_in: F"),
        **dense(f"{layer}output.dense", "layers/mlp/w_out: D F -> F D", "b_out: D"),
        **norm(f"{layer}output.LayerNorm", "layers/mlp_norm"),
        **dense(f"{prefix}pooler.dense", "pooler/w: E D -> D E", "b: D"),
    }


def dense(name: str, weight: str, bias: str) -> dict[str, str]:
    """The names of a projection and its bias, whose path lies beside the weight's."""
    return {f"{name}.weight": weight, f"{name}.bias": f"{weight.partition(':')[0].rpartition('/')[0]}/{bias}"}


def norm(name: str, path: str) -> dict[str, str]:
    """The names of a LayerNorm."""
    return {f"{name}.weight": f"{path}/scale: D", f"{name}.bias": f"{path}/bias: D"}


def num_labels(config: Mapping[str, Any]) -> int:
    """The classes of a classifier."""
    return len(config.get("id2label") or ()) or config.get("num_labels", 2)


def write_labels(classifier: str) -> Config:
    """The way back."""
    num_classes = options(classifier).get("classes", 0)
    labels = [f"LABEL_{i}" for i in range(num_classes)]
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def read_bert(config: Mapping[str, Any]) -> Config:
    """What BERT and RoBERTa share, without heads."""
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


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    has_transform, classes = "cls.predictions.transform.dense.weight" in names, 0
    if "cls.seq_relationship.weight" in names:
        classes = 2 if has_transform else num_labels(config)
    has_pooler = "bert.pooler.dense.weight" in names
    return {
        **read_bert(config),
        "head": "transform" if has_transform else "linear",
        "classifier": choice("tanh", classes=classes) if has_pooler else "",
    }


def _architecture(core: Config) -> str:
    classes = options(core["classifier"]).get("classes", 0)
    if core["head"] == "transform":
        return "BertForPreTraining" if classes else "BertForMaskedLM"
    return "BertForSequenceClassification" if classes else "BertModel"


BERT = Family(
    model_type="bert",
    architecture=_architecture,
    read=_read,
    write=write_bert,
    weights={
        **encoder("bert."),
        **dense("cls.predictions.transform.dense", "head_transform/w: E D -> D E", "b: D"),
        **norm("cls.predictions.transform.LayerNorm", "head_norm"),
        "cls.predictions.decoder.weight": "head: V D",
        "cls.predictions.bias": "head_bias: V",
        **dense("cls.seq_relationship", "classifier/w: Z D -> D Z", "b: Z"),
    },
    defaults=DEFAULTS,
    legal=LEGAL,
    renames=(*OLD_NORMS, (r"^(embeddings|encoder|pooler)\.", r"bert.\1."), (r"^classifier\.", "cls.seq_relationship.")),
    ignored=(r"bert\.embeddings\.position_ids",),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    spellings={
        "BertModel": ((r"^bert\.", ""),),
        "BertForSequenceClassification": ((r"^cls\.seq_relationship\.", "classifier."),),
    },
)

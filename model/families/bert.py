"""BERT, bare or with its heads."""

from collections.abc import Collection, Mapping
from typing import Any

from .bert_like import DEFAULTS, LEGAL, OLD_NORMS, encoder, num_labels, read_bert, write_bert
from .family import Config, Family, choice, options
from .tables import dense, norm


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

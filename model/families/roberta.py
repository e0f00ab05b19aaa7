"""RoBERTa: BERT whose positions begin after the row of padding."""

from collections.abc import Collection, Mapping
from typing import Any

from .bert_like import DEFAULTS, LEGAL, OLD_NORMS, encoder, num_labels, read_bert, write_bert
from .family import Config, Family, choice, options
from .tables import dense, norm


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    offset = config["pad_token_id"] + 1
    classes = num_labels(config) if "classifier.out_proj.weight" in names else 0
    core = read_bert(config)
    return {
        **core,
        "max_length": core["max_length"] - offset,
        "position": choice("learned", offset=offset),
        "head": "transform" if "lm_head.dense.weight" in names else "linear",
        "classifier": choice("tanh", classes=classes) if "roberta.pooler.dense.weight" in names else "",
    }


def _write(core: Config) -> Config:
    offset = options(core["position"])["offset"]
    return {
        **write_bert(core),
        "max_position_embeddings": core["max_length"] + offset,
        "pad_token_id": offset - 1,
    }


def _architecture(core: Config) -> str:
    if core["head"] == "transform":
        return "RobertaForMaskedLM"
    return "RobertaForSequenceClassification" if options(core["classifier"]).get("classes") else "RobertaModel"


ROBERTA = Family(
    model_type="roberta",
    architecture=_architecture,
    read=_read,
    write=_write,
    weights={
        **encoder("roberta."),
        **dense("lm_head.dense", "head_transform/w: E D -> D E", "b: D"),
        **norm("lm_head.layer_norm", "head_norm"),
        "lm_head.decoder.weight": "head: V D",
        "lm_head.bias": "head_bias: V",
        **dense("classifier.out_proj", "classifier/w: Z D -> D Z", "b: Z"),
    },
    defaults=DEFAULTS | {"pad_token_id": 1},
    legal=LEGAL,
    renames=(
        *OLD_NORMS,
        (r"^(embeddings|encoder|pooler)\.", r"roberta.\1."),
        (r"^classifier\.dense\.", "roberta.pooler.dense."),
    ),
    ignored=(r"roberta\.embeddings\.position_ids",),
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    spellings={
        "RobertaModel": ((r"^roberta\.", ""),),
        "RobertaForSequenceClassification": ((r"^roberta\.pooler\.dense\.", "classifier.dense."),),
    },
)

"""Marian: the original Transformer, with sinusoidal positions and a bias of the vocabulary."""

from collections.abc import Collection, Mapping
from typing import Any

from .bart_like import COPIES, DEFAULTS, LEGAL, RENAMES, WEIGHTS, read_bart, write_bart
from .family import Config, Family, no_counterpart


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    if config.get("decoder_vocab_size") not in (None, config["vocab_size"]):
        raise no_counterpart("decoder_vocab_size", config["decoder_vocab_size"], (config["vocab_size"],))
    return {**read_bart(config, names), "position": "sinusoidal"}


MARIAN = Family(
    model_type="marian",
    architecture="MarianMTModel",
    read=_read,
    write=write_bart,
    weights=WEIGHTS,
    defaults=DEFAULTS,
    legal=LEGAL | {"normalize_embedding": (False,), "share_encoder_decoder_embeddings": (True,)},
    renames=RENAMES,
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weight",),
    copies=COPIES,
)

"""BART: learned positions, two rows of which no token has, and a norm of the embeddings."""

from collections.abc import Collection, Mapping
from typing import Any

from .bart_like import COPIES, DEFAULTS, LEGAL, RENAMES, WEIGHTS, read_bart, write_bart
from .family import Config, Family, choice
from .tables import norm


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_bart(config, names), "position": choice("learned", offset=2), "embedding_norm": "norm"}


BART = Family(
    model_type="bart",
    architecture="BartForConditionalGeneration",
    read=_read,
    write=write_bart,
    weights={
        **WEIGHTS,
        "model.encoder.embed_positions.weight": "encoder_positions: T D",
        "model.decoder.embed_positions.weight": "positions: T D",
        **norm("model.encoder.layernorm_embedding", "encoder_embedding_norm"),
        **norm("model.decoder.layernorm_embedding", "embedding_norm"),
    },
    defaults=DEFAULTS,
    legal=LEGAL | {"normalize_embedding": (True,), "static_position_embeddings": (False,)},
    renames=RENAMES,
    copies=COPIES,
)

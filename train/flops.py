"""The work of a train step on paper: tokens and operations, for the rows that the config's task makes."""

from typing import Any

from data import DataConfig, blank_row
from model import forward_flops
from parallel import Chip

from .compose import make_model
from .objective import objective_name
from .precision import mean_peak

# Objectives that ask the model for the vocabulary's logits.
OF_TOKENS = ("tokens", "tokens_and_pairs")


def lengths_of(config: Any) -> tuple[int, int]:
    """Tokens of a row that the model reads, and that its encoder reads beside them, 0 without one."""
    row = blank_row(DataConfig.of(config.data))
    return len(row["inputs"]), len(row.get("encoder_inputs", ()))


def row_work(config: Any) -> tuple[int, float]:
    """Tokens of a row, padding and those of an encoder included, and the operations that a step takes for it.

    The operations are those of MFU: three times a forward pass in which attention counts the pairs that a causal mask
    lets through, and nothing is computed twice. Where only some parameters are trained they are fewer, which is not
    looked into here, nor is a teacher.
    """
    length, encoder_length = lengths_of(config)
    logits = objective_name(config) in OF_TOKENS
    flops = forward_flops(make_model(config).config, length, encoder_length=encoder_length, logits=logits)
    return length + encoder_length, 3 * flops


def peak_of(config: Any, chip: Chip) -> float:
    """`mean_peak` of a device that does the operations of `row_work`."""
    length, encoder_length = lengths_of(config)
    logits = objective_name(config) in OF_TOKENS
    return mean_peak(chip, make_model(config).config, length, encoder_length=encoder_length, logits=logits)


def step_work(config: Any) -> tuple[int, float]:
    """`row_work` of a step's whole batch, all devices together."""
    tokens, flops = row_work(config)
    return config.data.batch_size * tokens, config.data.batch_size * flops

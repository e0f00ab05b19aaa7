"""From the config to the parts: here it ends, and frozen dataclasses and plain arguments begin."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from data import DataConfig
from data.options import choose
from model import EXPERT_AXES, REMAT_POLICIES, Transformer, TransformerConfig, attention, dropless, scan_layers
from parallel import (
    BATCH_AXES,
    Schedule,
    all_to_all_attention,
    exchange_experts,
    local_rows,
    make_rules,
    make_schedule,
    ring_attention,
)
from parallel.sharding import Rules

from .best import Best
from .objective import make_objective
from .optimizer import make_optimizer
from .strategy import check_sampling
from .trainable import trained_part


def make_model(config: Any, mesh: Mesh | None = None) -> Transformer:
    """The model of a config.

    Args:
        config: the whole config.
        mesh: what batches are divided over; None is the plain model, for parameters and for generation.

    Returns:
        The model; equal for equal configs and meshes.

    Raises:
        ValueError: a value is not legal, or two do not fit.
    """
    c = config.model
    if c.remat not in REMAT_POLICIES:
        raise ValueError(f"config.model.remat={c.remat!r} is not known; use one of {', '.join(REMAT_POLICIES)}")
    if not 1 <= c.scan_unroll <= c.num_layers:
        raise ValueError(f"config.model.scan_unroll={c.scan_unroll} must be from 1 to num_layers={c.num_layers}")
    from_elsewhere = {"vocab_size": config.data.vocab_size, "max_length": c.max_length or config.data.seq_len}
    names = [field.name for field in dataclasses.fields(TransformerConfig)]
    return Transformer(
        TransformerConfig(**{name: from_elsewhere[name] if name in from_elsewhere else c[name] for name in names}),
        attention_fn=attention if mesh is None or mesh.shape["context"] == 1 else _context_attention(config),
        stack_fn=_stack_fn(c.remat, c.scan_unroll),
        experts_fn=_experts_fn(rules_of(config)),
    )


# For a length that the mesh divides: config.mesh.context_attention -> called as `model.attention` is.
CONTEXT_ATTENTION: dict[str, Callable[..., Any]] = {
    "ring": ring_attention,
    "all_to_all": functools.partial(all_to_all_attention, attention_fn=attention),
}


def _context_attention(config: Any) -> Callable[..., Any]:
    name = config.mesh.context_attention
    if name not in CONTEXT_ATTENTION:
        raise ValueError(
            f"config.mesh.context_attention={name!r} is not known; use one of {', '.join(CONTEXT_ATTENTION)}"
        )
    return CONTEXT_ATTENTION[name]


@functools.cache
def _stack_fn(remat: str, unroll: int) -> Callable[..., Any]:
    """The same object for the same arguments, so that models of equal configs are equal and compile once."""
    return functools.partial(scan_layers, remat=remat, unroll=unroll)


@functools.cache
def _experts_fn(rules: Rules) -> Callable[..., Any]:
    """As `_stack_fn`."""
    return exchange_experts(dropless, rules=rules, axes=EXPERT_AXES)


def rules_of(config: Any) -> Rules:
    """The rules table of a config."""
    return make_rules(config.mesh.rules, config.mesh.replaced_rules)


def with_batch_size(config: Any, size: int) -> Any:
    """A config whose batches all have a size, such as one of those in `config.data.batch_ramp`."""
    config = copy.deepcopy(config)
    config.data.update(batch_size=size, batch_ramp="")
    return config


def num_microbatches(config: Any, mesh: Mesh) -> int:
    """Passes of a step: each device takes `config.train.microbatch_rows` rows of its share at a time.

    Raises:
        ValueError: the rows do not divide a device's share.
    """
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    share = config.data.batch_size // shards
    rows = config.train.microbatch_rows or share
    if rows < 0 or share % rows:
        legal = [n for n in range(1, share + 1) if share % n == 0]
        raise ValueError(
            f"config.train.microbatch_rows={rows} does not divide the {share} rows that each of {shards} shards of "
            f"config.data.batch_size={config.data.batch_size} has; use one of {legal}"
        )
    return share // rows


def _one() -> int:
    return 1


def _interleaved(*, chunks: int = 2) -> int:
    return chunks


def _zero_bubble(*, chunks: int = 1) -> int:
    return chunks


# Schedules of a pipeline -> how many pieces of the model each stage holds.
SCHEDULES = {"gpipe": _one, "1f1b": _one, "interleaved": _interleaved, "zero_bubble": _zero_bubble}


def schedule_of(config: Any, mesh: Mesh) -> Schedule:
    """The pipeline schedule of a config.

    Raises:
        ValueError: the numbers of layers, stages, chunks and microbatches do not fit; it names the keys.
    """
    m = config.mesh
    chosen = choose("config.mesh.schedule", m.schedule, SCHEDULES)
    schedule = make_schedule(
        chosen.kind,
        num_stages=mesh.shape["stage"],
        num_microbatches=num_microbatches(config, mesh),
        num_chunks=chosen.make(),
    )
    pieces = schedule.num_stages * schedule.num_chunks
    if config.model.architecture.startswith("encoder_decoder"):
        raise ValueError(
            f"config.model.architecture={config.model.architecture!r} has two stacks of layers, of which a pipeline "
            f"runs one; use config.mesh.stage=1, not {mesh.shape['stage']}"
        )
    num_layers = config.model.num_layers - config.model.num_dense_layers
    if num_layers % pieces:
        raise ValueError(
            f"config.model.num_layers={config.model.num_layers}"
            + (f" less num_dense_layers={config.model.num_dense_layers}" if config.model.num_dense_layers else "")
            + f" is not divisible by the {pieces} pieces of "
            f"config.mesh.stage={schedule.num_stages} and config.mesh.schedule={m.schedule!r}; use a multiple of "
            f"{pieces}"
        )
    period = max(1, len(config.model.layer_pattern))
    if num_layers // pieces % period:
        raise ValueError(
            f"config.model.layer_pattern={config.model.layer_pattern!r} does not repeat in the "
            f"{num_layers // pieces} layers of each of the {pieces} pieces of the pipeline; use fewer "
            f"stages, or a config.model.num_layers={pieces * period}"
        )
    if schedule.splits_backward and config.model.remat != "none":
        raise ValueError(
            f"config.mesh.schedule={m.schedule!r} keeps what config.model.remat={config.model.remat!r} would compute "
            "again; use config.model.remat='none' or config.mesh.schedule='1f1b'"
        )
    return schedule


def preflight(config: Any, mesh: Mesh) -> None:
    """Checks all that can be known to fail before anything is compiled or written.

    Raises:
        ValueError: it names the keys, the values and a legal choice.
    """
    c = make_model(config, mesh).config
    _check_context(config, mesh)
    rules = rules_of(config)
    for size in reversed(DataConfig.of(config.data).ramp.sizes):
        _check_batch(config, mesh, size)
    for logical, key, size in (
        ("heads", "num_heads", c.num_heads),
        ("kv_heads", "num_kv_heads", c.num_kv_heads),
        ("mlp", "d_mlp", c.d_mlp),
        ("experts", "num_experts", c.num_experts),
        ("embed", "d_model", c.d_model),
        ("vocab", "vocab_multiple", c.padded_vocab_size),
        ("layers", "num_layers", c.num_layers - c.num_dense_layers),
        ("residual_length", "seq_len", config.data.seq_len),
    ):
        axes = dict(rules)[logical]
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            section = "data" if key == "seq_len" else "model"
            raise ValueError(
                f"config.{section}.{key} makes {size} {logical}, which are not divisible by the {parts} parts of "
                f"{', '.join(f'config.mesh.{axis}={mesh.shape[axis]}' for axis in axes)}; use a multiple of {parts}, "
                f"parts in {[n for n in range(1, parts + 1) if size % n == 0]}, or "
                f"config.mesh.replaced_rules='{logical}=' to divide them over nothing"
            )
    if not 0 <= config.seed < 2**31:
        raise ValueError(f"config.seed={config.seed} must be at least 0 and below 2^31")
    for field in ("steps", "log_every", "keep_checkpoints", "checkpoint_every"):
        if config.train[field] < 1:
            raise ValueError(f"config.train.{field}={config.train[field]} must be at least 1")
    for field in ("eval_every", "eval_batches", "keep_every"):
        if config.train[field] < 0:
            raise ValueError(f"config.train.{field}={config.train[field]} must be 0 or more")
    make_objective(config)
    make_optimizer(config)
    trained_part(config)
    Best.of(config)
    check_sampling(config)


def _check_batch(config: Any, mesh: Mesh, size: int) -> None:
    """Checks that batches of a size can be divided over the mesh.

    Raises:
        ValueError: it names the keys, the values and a legal choice.
    """
    of_size = with_batch_size(config, size)
    try:
        local_rows(mesh, size)
        num_microbatches(of_size, mesh)
        if mesh.shape["stage"] > 1:
            schedule_of(of_size, mesh)
    except ValueError as error:
        if size == config.data.batch_size:
            raise
        raise ValueError(f"config.data.batch_ramp={config.data.batch_ramp!r} has batches of {size}: {error}") from error


def _check_context(config: Any, mesh: Mesh) -> None:
    """Checks that the mesh can divide the length, and for the all-to-all the heads.

    Raises:
        ValueError: it names the keys, the values and a legal choice.
    """
    shards, tensor = mesh.shape["context"], mesh.shape["tensor"]
    if shards == 1:
        return
    length, c = config.data.seq_len, config.model
    for field, no in (("position", "relative"), ("architecture", "encoder_decoder"), ("block", "lstm")):
        if c[field].startswith(no):
            raise ValueError(
                f"config.model.{field}={c[field]!r} cannot be divided over the length yet; use config.mesh.context=1, "
                f"not {shards}"
            )
    if length % (2 * shards):
        legal = max(1, round(length / (2 * shards))) * 2 * shards
        raise ValueError(
            f"config.data.seq_len={length} is not divisible by the {2 * shards} chunks, two for each shard, of "
            f"config.mesh.context={shards}; use config.data.seq_len={legal}"
        )
    parts = shards * tensor
    if config.mesh.context_attention == "all_to_all" and c.num_heads % parts:
        raise ValueError(
            f"config.model.num_heads={c.num_heads} cannot be divided over the {parts} parts of config.mesh.context="
            f"{shards} and config.mesh.tensor={tensor} as config.mesh.context_attention='all_to_all' does; use a "
            f"multiple of {parts} for it and for config.model.num_kv_heads={c.num_kv_heads}, which are repeated where "
            f"they do not divide, or config.mesh.context_attention='ring'"
        )

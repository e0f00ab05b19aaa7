"""From the config to the parts: here it ends, and frozen dataclasses and plain arguments begin."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from data import DataConfig, make_ramp, make_task
from data.options import choose
from model import (
    EXPERT_AXES,
    Asked,
    Choice,
    Transformer,
    TransformerConfig,
    attention,
    attention_fn_of,
    choose_attention,
    dropless,
    names_attention,
    remat_choice,
    scan_layers,
)
from parallel import (
    Schedule,
    all_to_all_attention,
    check_rows,
    chip_of,
    compute_capability,
    exchange_experts,
    make_rules,
    make_schedule,
    on_each_device,
    platform_of,
    ring_attention,
)
from parallel.sharding import Rules

from .best import Best
from .objective import make_objective
from .optimizer import make_optimizer
from .precision import check_products
from .stages import row_shards, window_ramp, with_batch_size
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
    c, model = config.model, model_config(config)
    remat_choice(c.remat)
    if not 1 <= c.scan_unroll <= c.num_layers:
        raise ValueError(f"config.model.scan_unroll={c.scan_unroll} must be from 1 to num_layers={c.num_layers}")
    return Transformer(
        model,
        attention_fn=attention if mesh is None else _attention_fn(config, mesh, model),
        stack_fn=_stack_fn(c.remat, c.scan_unroll),
        experts_fn=_experts_fn(rules_of(config)),
    )


def model_config(config: Any) -> TransformerConfig:
    """The hyperparameters of a config's model.

    Raises:
        ValueError: a value is not legal, or two do not fit.
    """
    c = config.model
    if c.depth:
        raise ValueError(f"config.model.depth={c.depth} is for a run's start: call train.with_depth(config) first")
    from_elsewhere = {"vocab_size": config.data.vocab_size, "max_length": c.max_length or config.data.seq_len}
    names = [field.name for field in dataclasses.fields(TransformerConfig)]
    fields = {name: from_elsewhere[name] if name in from_elsewhere else getattr(c, name) for name in names}
    return TransformerConfig(**fields)


CONTEXT_ATTENTION = ("ring", "all_to_all")


def attention_of(config: Any, mesh: Mesh, model: TransformerConfig | None = None) -> Choice:
    """The attention of training, evaluation and scoring on a mesh; generation, which has a cache, takes the plain one.

    The rule of `config.model.attention="auto"` is that of `model.backends`; where the mesh divides the length in a
    ring, that is what there is.

    Args:
        config: the whole config.
        mesh: the mesh; an abstract one will do.
        model: the model's hyperparameters, if they are at hand.

    Returns:
        The backend and its options; of a device, if the all-to-all divides the length.

    Raises:
        ValueError: it is unknown, or cannot do what the config asks; it names the keys, the reason and a legal choice.
    """
    text, across = config.model.attention, config.mesh.context_attention
    c, shards = model or model_config(config), mesh.shape["context"]
    if shards > 1 and across not in CONTEXT_ATTENTION:
        raise ValueError(
            f"config.mesh.context_attention={across!r} is not known; use one of {', '.join(CONTEXT_ATTENTION)}"
        )
    platform, capability = platform_of(mesh), compute_capability(mesh)
    choice = choose_attention(text, asked_of_attention(config, c, platform, capability=capability))
    if shards == 1 or across == "all_to_all":
        return choice
    if names_attention(text):
        raise ValueError(
            f"config.model.attention={text!r} cannot be used where config.mesh.context={shards} divides the length in "
            "a ring, which has an attention of its own; use config.model.attention='auto' or "
            "config.mesh.context_attention='all_to_all'"
        )
    return Choice("ring", {})


def asked_of_attention(config: Any, c: TransformerConfig, platform: str, *, capability: float) -> Asked:
    """What a config asks of its attention on a platform; c is the shape of its model."""
    image, data = c.choice("image"), DataConfig.of(config.data)
    return Asked(
        config=c,
        platform=platform,
        length=1 + (image.size // image.patch) ** 2 if image.kind else config.data.seq_len,
        in_order=not getattr(make_task(data), "reads_both_ways", False),
        capability=capability,
    )


def _attention_fn(config: Any, mesh: Mesh, model: TransformerConfig) -> Callable[..., Any]:
    choice = attention_of(config, mesh, model)
    if choice.kind == "ring":
        return ring_attention
    packed, divides_length = config.data.packing and not model.choice("image").kind, mesh.shape["context"] > 1
    return _placed_attention(choice.kind, tuple(choice.options.items()), packed, divides_length)


@functools.cache
def _placed_attention(
    kind: str, options: tuple[tuple[str, Any], ...], packed: bool, divides_length: bool
) -> Callable[..., Any]:
    """The same object for the same arguments, so that models of equal configs are equal and compile once."""
    fn = attention_fn_of(Choice(kind, dict(options)), packed=packed)
    if maps_devices(kind):
        fn = on_each_device(fn)
    if not divides_length:
        return fn
    return functools.partial(all_to_all_attention, attention_fn=fn, by_place=kind != "plain")


def maps_devices(kind: str) -> bool:
    """Whether an attention is a kernel, which each device runs by itself."""
    return kind in ("splash", "cudnn")


@functools.cache
def _stack_fn(remat: str, unroll: int) -> Callable[..., Any]:
    """As `_placed_attention`."""
    return functools.partial(scan_layers, remat=remat, unroll=unroll)


@functools.cache
def _experts_fn(rules: Rules) -> Callable[..., Any]:
    """As `_placed_attention`."""
    return exchange_experts(dropless, rules=rules, axes=EXPERT_AXES)


def rules_of(config: Any) -> Rules:
    """The rules table of a config."""
    return make_rules(config.mesh.rules, config.mesh.replaced_rules)


def num_microbatches(config: Any, mesh: Mesh | AbstractMesh) -> int:
    """Passes of a step: each device takes `config.train.microbatch_rows` rows of its share at a time.

    Raises:
        ValueError: the rows do not divide a device's share.
    """
    shards = row_shards(mesh)
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


def schedule_of(config: Any, mesh: Mesh | AbstractMesh) -> Schedule:
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
    # Learned outside of the layers and read in all of them: its gradient would have to be collected from all stages.
    for field, is_shared in (
        ("value_mix", bool(config.model.value_mix)),
        ("position", config.model.position.startswith("relative")),
    ):
        if is_shared:
            raise ValueError(
                f"config.model.{field}={config.model[field]!r} cannot be divided over the stages of a pipeline; use "
                f"config.mesh.stage=1, not {mesh.shape['stage']}"
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
    model = make_model(config, mesh).config
    DataConfig.of(config.data)
    check_products(model, chip_of(mesh.devices.flat[0].device_kind))
    check_mesh(config, mesh, model, rules_of(config))
    _check_windows(config, mesh)
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


def check_mesh(config: Any, mesh: Mesh | AbstractMesh, c: TransformerConfig, rules: Rules) -> None:
    """Checks that a mesh divides the batch and the model; the part of `preflight` that a planner does for each mesh.

    Args:
        config: the whole config.
        mesh: only its sizes matter.
        c: the shape of the config's model.
        rules: of the config.

    Raises:
        ValueError: it names the keys, the values and a legal choice.
    """
    _check_context(config, mesh)
    for size in reversed(make_ramp(config.data.batch_ramp, config.data.batch_size).sizes):
        _check_batch(config, mesh, size)
    table = dict(rules)
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
        axes = table[logical]
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            section = "data" if key == "seq_len" else "model"
            raise ValueError(
                f"config.{section}.{key} makes {size} {logical}, which are not divisible by the {parts} parts of "
                f"{', '.join(f'config.mesh.{axis}={mesh.shape[axis]}' for axis in axes)}; use a multiple of {parts}, "
                f"parts in {[n for n in range(1, parts + 1) if size % n == 0]}, or "
                f"config.mesh.replaced_rules='{logical}=' to divide them over nothing"
            )


def _check_batch(config: Any, mesh: Mesh | AbstractMesh, size: int) -> None:
    """Checks that batches of a size can be divided over the mesh.

    Raises:
        ValueError: it names the keys, the values and a legal choice.
    """
    try:
        check_rows(mesh, size)
        of_size = config if size == config.data.batch_size else with_batch_size(config, size, mesh)
        num_microbatches(of_size, mesh)
        if mesh.shape["stage"] > 1:
            schedule_of(of_size, mesh)
    except ValueError as error:
        if size == config.data.batch_size:
            raise
        raise ValueError(f"config.data.batch_ramp={config.data.batch_ramp!r} has batches of {size}: {error}") from error


def _check_windows(config: Any, mesh: Mesh) -> None:
    """Checks that the attention can do each window on the way to the last.

    Raises:
        ValueError: it names the keys, the values and a legal choice.
    """
    for window in window_ramp(config).sizes[:-1]:
        of_window = copy.deepcopy(config)
        of_window.model.window = window
        try:
            make_model(of_window, mesh)
        except ValueError as error:
            text = config.model.window_ramp
            raise ValueError(f"config.model.window_ramp={text!r} has windows of {window}: {error}") from error


def _check_context(config: Any, mesh: Mesh | AbstractMesh) -> None:
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

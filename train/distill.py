"""Knowledge distillation: an objective that also learns from what a trained model says.

    --config.train.objective=distill,teacher=runs/large,temperature=2,weight=0.5 --config.data.tokenizer=runs/large

The teacher is a run or an imported model, for the same vocabulary. Its parameters are in `TrainState.fixed`; an
objective finds them beside the student's, under the name "teacher".

Letters: B batch, T length, V vocab or classes, D width of the student, E width of the teacher.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from jax import Array

from data.command_line import load_config
from data.options import choose

from .trainable import BESIDE

NAME = "distill"
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The options of the objective.

    Attributes:
        teacher: the workdir of a run or of an imported model.
        temperature: of both distributions.
        weight: of what the teacher says; the rest is that of the base objective.
        hidden: weight of the error of the hidden states.
        base: the objective that the student is evaluated with; "auto" is as the task asks.
    """

    teacher: str = ""
    temperature: float = 2.0
    weight: float = 0.5
    hidden: float = 0.0
    base: str = "auto"


def _choice(config: Any) -> Distillation | None:
    """The options of the objective; None if it is another one.

    Raises:
        ValueError: it names the key, the value and a legal choice.
    """
    text = config.train.objective
    if text.partition(",")[0].strip() != NAME:
        return None
    choice: Distillation = choose("config.train.objective", text, {NAME: Distillation}).make()
    if not choice.teacher:
        raise ValueError(
            f"config.train.objective={text!r} needs the workdir of a run or of an imported model, as in "
            f"'{NAME},{TEACHER}=runs/large'"
        )
    if choice.temperature <= 0 or not 0 <= choice.weight <= 1 or choice.hidden < 0:
        raise ValueError(
            f"config.train.objective={text!r}: temperature must be above 0, weight from 0 to 1, and hidden 0 or more"
        )
    return choice


def teacher_path(config: Any) -> epath.Path | None:
    """Where the teacher is; None without one."""
    choice = _choice(config)
    return None if choice is None else epath.Path(choice.teacher).expanduser()


def teacher_config(config: Any) -> Any:
    """The teacher's config, for the mesh and the compute dtype of the student's; None without a teacher.

    Raises:
        ValueError: there is no teacher, or it is for another vocabulary.
    """
    path = teacher_path(config)
    if path is None:
        return None
    if not (path / "config.json").exists() or not (path / "checkpoints").exists():
        raise ValueError(
            f"config.train.objective={config.train.objective!r}: {path} holds no run and no imported model with "
            "checkpoints"
        )
    theirs: Any = load_config(path / "config.json")
    if theirs.data.vocab_size != config.data.vocab_size:
        raise ValueError(
            f"config.train.objective={config.train.objective!r}: the teacher has config.data.vocab_size="
            f"{theirs.data.vocab_size}, not {config.data.vocab_size}; use its vocabulary and "
            f"config.data.tokenizer={path}"
        )
    theirs.mesh = config.mesh
    theirs.model.dtype = config.model.dtype.partition(",")[0]  # its targets are not rounded
    theirs.model.attention = "auto"  # for the student's rows
    theirs.data.update(task=config.data.task, packing=config.data.packing)
    return theirs


def check_same_meaning(config: Any, sha256: str, labels: Sequence[str]) -> None:
    """Checks that the teacher's ids and classes mean what those of the data mean.

    Args:
        config: the whole config.
        sha256: of the data's tokenizer.
        labels: names of the data's classes, if it has some, in the order of their numbers.

    Raises:
        ValueError: it has another tokenizer, or other labels.
    """
    from .workdir import read_labels, read_tokenizer

    path, said = teacher_path(config), f"config.train.objective={config.train.objective!r}"
    if path is None:
        return
    if read_tokenizer(path).sha256 != sha256:
        raise ValueError(f"{said}: the teacher has another tokenizer than the data; use config.data.tokenizer={path}")
    theirs = read_labels(path)
    if labels and theirs and list(labels) != theirs:
        raise ValueError(
            f"{said}: the teacher's classes are {', '.join(theirs[:10])}, those of the data {', '.join(labels[:10])}; "
            f"say its order, as in config.data.task='{config.data.task.partition(',')[0]},labels={'/'.join(theirs)}'"
        )


def without_teacher(config: Any) -> Any:
    """The config with the objective that the student is evaluated with."""
    choice = _choice(config)
    if choice is None:
        return config
    config = config.copy_and_resolve_references()
    config.train.objective = choice.base
    return config


def projection_of(config: Any, key: Array) -> dict[str, Any]:
    """The learned projection from the student's width to the teacher's; {} where none is needed.

    Args:
        config: the whole config.
        key: of the initial values.

    Returns:
        A tree beside the model's parameters, boxed with logical axes.
    """
    choice, theirs = _choice(config), teacher_config(config)
    if choice is None or not choice.hidden or theirs.model.d_model == config.model.d_model:
        return {}
    D, E = config.model.d_model, theirs.model.d_model
    key = jax.random.fold_in(key, zlib.crc32(NAME.encode()))
    w_DE = D**-0.5 * jax.random.normal(key, (D, E), jnp.float32)
    return {BESIDE: {"projection": nn.LogicallyPartitioned(w_DE, ("embed", "classes"))}}


def with_teacher(params: Any, fixed: Mapping[str, Any]) -> Any:
    """Parameters as an objective sees them: with the teacher's, if there is one."""
    return {**params, TEACHER: fixed[TEACHER]} if TEACHER in fixed else params


def soft_cross_entropy(logits: Array, teacher_logits: Array, *, temperature: float) -> Array:
    """T^2 KL(teacher || student) of the distributions at temperature T, in nats (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        logits: (..., V), any float dtype.
        teacher_logits: the same shape.
        temperature: T.

    Returns:
        (...) float32.
    """
    log_q, log_p = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits, teacher_logits))
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def make_distill(config: Any) -> Callable[..., Any]:
    """The objective of a config: weight * T^2 KL + (1 - weight) * base + hidden * squared error of hidden states.

    Raises:
        ValueError: the options are wrong, or there is no such teacher.
    """
    from .objective import make_objective

    choice, theirs = _choice(config), teacher_config(config)  # so that what is wrong with it is known early
    assert choice is not None
    return functools.partial(_distill, base=make_objective(without_teacher(config)), teacher=theirs, choice=choice)


def _distill(
    apply_fn: Callable[..., Any],
    params: Any,
    batch: Mapping[str, Array],
    keys_B: Array | None,
    *,
    base: Callable[..., Any],
    teacher: Any,
    choice: Distillation,
) -> tuple[Array, Array, dict[str, Array]]:
    """Runs the base objective, listens to what it asks the model, and asks the teacher the same."""
    from .compose import make_model

    calls = []

    def student(*args: Any, want: str = "logits", **kwargs: Any) -> Any:
        outputs = apply_fn(*args, want="all", **kwargs)
        calls.append((outputs, want, args[1:], kwargs | {"dropout_keys_B": None}))
        return outputs if want == "all" else outputs[want]

    own = {name: leaf for name, leaf in params.items() if name not in (TEACHER, BESIDE)}
    loss, weight, sums = base(student, own, batch, keys_B)
    assert len(calls) == 1, "an objective that asks the model twice cannot be distilled"
    outputs, want, args, kwargs = calls[0]
    want = "logits" if want == "all" else want
    mesh: Any = jax.sharding.get_abstract_mesh()
    model = make_model(teacher, mesh if "context" in mesh.axis_names else None)
    said: Any = model.apply({"params": params[TEACHER]}, *args, want="all", **kwargs)
    said = jax.lax.stop_gradient(said)

    V = min(outputs[want].shape[-1], said[want].shape[-1])  # the vocabularies are equal but for their padding
    weights = batch["weights"].astype(jnp.float32)
    soft = soft_cross_entropy(outputs[want][..., :V], said[want][..., :V], temperature=choice.temperature)
    sums = {**sums, "soft": jnp.sum(soft * weights)}
    loss = (1.0 - choice.weight) * loss + choice.weight * sums["soft"]
    if choice.hidden:
        state = "pooled" if want == "classes" else "hidden"
        projection = params.get(BESIDE, {}).get("projection")
        error = hidden_error(outputs[state], said[state], projection)
        sums["hidden"] = jnp.sum(error * weights)
        loss = loss + choice.hidden * sums["hidden"]
    return loss, weight, sums


def hidden_error(x_BTD: Array, teacher_x_BTE: Array, w_DE: Array | None) -> Array:
    """Mean squared error of the last hidden states (Jiao et al. 2019, TinyBERT, arXiv:1909.10351, eq. 8).

    Args:
        x_BTD: the student's.
        teacher_x_BTE: the teacher's.
        w_DE: maps one to the other; None where D = E.

    Returns:
        (B, T) float32.
    """
    y_BTE = x_BTD.astype(jnp.float32)
    y_BTE = y_BTE if w_DE is None else y_BTE @ w_DE
    return jnp.mean(jnp.square(y_BTE - teacher_x_BTE.astype(jnp.float32)), axis=-1)

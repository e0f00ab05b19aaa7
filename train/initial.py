"""What a run starts from: fresh parameters, or those of another run or of an imported model."""

import copy
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from data.command_line import load_config

from .distill import TEACHER, teacher_path
from .parameters_of_run import note_fixed, own_config, read_source, read_teacher
from .state import TrainState, init_state, parameter_shapes, with_params
from .trainable import ADAPTERS, BESIDE, divide, trained_part
from .width import is_mup
from .workdir import FREE_OF_MODEL

# Fields of `model` that say how it is trained, not what it is; a run keeps its own.
_OWN = (*FREE_OF_MODEL, "balance_loss", "router_z_loss", "expert_capacity", "window_ramp")
_HEADS = ("classifier", "pooler")  # parameters that a new task replaces


def adopt(config: Any) -> Any:
    """The config with the model and tokenizer of what `config.init_from` names; the same if it names nothing.

    A `config.model.classifier` of the config's own stays: it is a new task's. So does a standard `config.model.init`;
    "mup" is a part of the model, as its logits have a factor.

    Raises:
        ValueError: there is no run or imported model there, or it does not have the "mup" that the config asks for.
    """
    if not config.init_from:
        return config
    if config.model.depth:
        raise ValueError(
            f"config.model.depth={config.model.depth} does not go with config.init_from={config.init_from!r}, whose "
            "model is taken; use config.model.depth=0"
        )
    source = epath.Path(config.init_from).expanduser()
    path = source / "config.json"
    if not path.exists():
        raise ValueError(f"config.init_from={config.init_from!r} holds no run and no imported model (no config.json)")
    if not (source / "checkpoints").exists():
        raise ValueError(
            f"config.init_from={config.init_from!r} holds no checkpoints; a model in Hugging Face's format is imported "
            f"first, with python -m train.convert import {config.init_from} --workdir=runs/imported"
        )
    theirs: Any = load_config(path)
    config = copy.deepcopy(config)
    if is_mup(config) and not is_mup(theirs):
        raise ValueError(
            f"config.model.init={config.model.init!r} does not go with config.init_from={config.init_from!r}, whose "
            "parameters are in the standard parametrisation, tuned at the width that they have; use 'standard'"
        )
    own = (*_OWN, *(["classifier"] if config.model.classifier else []), *([] if is_mup(theirs) else ["init"]))
    with config.unlocked():
        for field, value in theirs.model.items():
            if field not in own:
                config.model[field] = value
        if not config.model.max_length:  # learned positions are as many as there
            config.model.max_length = theirs.data.seq_len
        config.data.vocab_size = theirs.data.vocab_size
        config.data.tokenizer = str(source)
    return config


def fresh_parameters(config: Any) -> list[str]:
    """Names of the parameters that start fresh although `config.init_from` names a source: a new task's head.

    Args:
        config: the whole config, as `adopt` returns it.

    Raises:
        ValueError: others are missing there or have other shapes, or a fresh one would never be trained.
    """
    if not config.init_from:
        return []
    source = epath.Path(config.init_from).expanduser()
    ours, theirs = (parameter_shapes(c) for c in (config, own_config(source, config)))
    fresh = [name for name, shape in ours.items() if theirs.get(name) != shape]
    wrong = [f"{name} is too many there" for name in theirs if name not in ours and not _of_head(name)]
    wrong += [f"{name} {ours[name]} is {theirs.get(name, 'missing')} there" for name in fresh if not _of_head(name)]
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong[:12])
        raise ValueError(f"config.init_from={config.init_from!r} holds another model than this config's:{listed}")
    trained: Any = flatten_dict(divide(trained_part(config), unflatten_dict(ours, sep="/"))[0], sep="/")
    frozen = [name for name in fresh if name not in trained]
    if frozen:
        raise ValueError(
            f"config.train.parameters={config.train.parameters!r} would leave {', '.join(frozen)} as random as they "
            f"start; train them too, as with 'lora,also={'|'.join(dict.fromkeys(n.split('/')[0] for n in frozen))}'"
        )
    return fresh


def _of_head(name: str) -> bool:
    return name.split("/")[0] in _HEADS


def first_state(
    config: Any,
    mesh: Mesh,
    *,
    workdir: epath.Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> TrainState:
    """The state at step 0 of a config that `adopt` has seen.

    Args:
        config: the whole config.
        mesh: where the state lives.
        workdir: keeps note of what is fixed, so that a restart and the commands find it again.
        log: is told which parameters start fresh.
    """
    state, steps = init_state(config, mesh), {}
    if config.init_from:
        fresh = fresh_parameters(config)
        if fresh:
            log(f"Fresh parameters, which config.init_from={config.init_from!r} does not have: {', '.join(fresh)}")
        params, steps["base"] = read_source(config, mesh)
        trained, base = divide(trained_part(config), params)
        state = with_params(config, mesh, state, _laid_over(state.params, trained, fresh))
        if "base" in state.fixed:
            state = state.replace(fixed={"base": _laid_over(state.fixed["base"], base, [])})
    if teacher_path(config) is not None:
        teacher, steps[TEACHER] = read_teacher(config, mesh)
        state = state.replace(fixed={**state.fixed, TEACHER: teacher})
    if workdir is not None:
        note_fixed(workdir, state.fixed, steps)
    return state


def _laid_over(own: Any, theirs: Any, fresh: list[str]) -> Any:
    """The own tree with the leaves of another, where the own ones are."""
    flat: Any = flatten_dict(own)
    other: Any = flatten_dict(theirs)
    for path, leaf in flat.items():
        if path[-1] not in ADAPTERS and path[0] != BESIDE and "/".join(path) not in fresh:
            flat[path] = jax.device_put(other[path], leaf.sharding)
    return unflatten_dict(flat)

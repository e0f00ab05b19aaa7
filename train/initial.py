"""What a run starts from: fresh parameters, or those of another run or of an imported model."""

import copy
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from data.command_line import load_config

from .restore import newest
from .state import TrainState, init_state
from .workdir import FREE_OF_MODEL

# Fields of `model` that say how it is trained, not what it is; a run keeps its own.
_OWN = (*FREE_OF_MODEL, "init_std", "balance_loss", "router_z_loss", "expert_capacity")


def adopt(config: Any) -> Any:
    """The config with the model and tokenizer of what `config.init_from` names; the same if it names nothing.

    Raises:
        ValueError: there is no run or imported model there.
    """
    if not config.init_from:
        return config
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
    with config.unlocked():
        for field, value in theirs.model.items():
            if field not in _OWN:
                config.model[field] = value
        if not config.model.max_length:  # learned positions are as many as there
            config.model.max_length = theirs.data.seq_len
        config.data.vocab_size = theirs.data.vocab_size
        config.data.tokenizer = str(source)
    return config


def first_state(config: Any, mesh: Mesh) -> TrainState:
    """The state at step 0 of a config that `adopt` has seen."""
    state = init_state(config, mesh)
    if not config.init_from:
        return state
    with newest(epath.Path(config.init_from).expanduser()) as (checkpoints, step):
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state.params
        )
        return state.replace(params=checkpoints.restore(step, params=abstract)["params"])

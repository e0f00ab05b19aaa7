"""The state that a step takes and returns."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model import Transformer
from parallel import on_mesh, tree_shardings

from .checkpoint import Checkpoints
from .compose import make_model, rules_of
from .optimizer import make_optimizer


class TrainState(struct.PyTreeNode):
    """All that changes in training; data order and random keys follow from `step` and the config's seed.

    Attributes:
        step: updates made, int32 scalar; also the position in the data.
        params: the model's parameters, float32.
        opt_state: the optimizer's state, moments in float32.
    """

    step: Array
    params: Any
    opt_state: Any


def save_state(checkpoints: Checkpoints, step: int, state: TrainState) -> None:
    """Saves a state such that its parameters can be restored alone.

    Raises:
        OSError: this save or the one before failed.
    """
    checkpoints.save(step, params=state.params, training={"step": state.step, "opt_state": state.opt_state})


def restore_state(checkpoints: Checkpoints, step: int, abstract: TrainState) -> TrainState:
    """What `save_state` saved, as `abstract_state` places it."""
    training = {"step": abstract.step, "opt_state": abstract.opt_state}
    items = checkpoints.restore(step, params=abstract.params, training=training)
    return TrainState(params=items["params"], **items["training"])


def abstract_state(config: Any, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without its values: what a checkpoint is restored into.

    Raises:
        ValueError: a parameter's dim is not divisible by the mesh axes it is divided over.
    """
    state = jax.eval_shape(lambda: _init(config, 0))
    moments = param_shardings(config, mesh, of="moment")
    shardings = TrainState(
        step=NamedSharding(mesh, PartitionSpec()),  # pyright: ignore[reportArgumentType]
        params=param_shardings(config, mesh),
        opt_state=_shardings_like_params(state.opt_state, state.params, moments, mesh),
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )


def param_shardings(config: Any, mesh: Mesh, *, of: str = "") -> Any:
    """Where each parameter lives, or its "gradient" or "moment" if `of` says so.

    Raises:
        ValueError: a parameter's dim is not divisible by the mesh axes it is divided over.
    """
    return tree_shardings(jax.eval_shape(lambda: _init_params(config, 0)), mesh, rules_of(config), of=of)


def init_state(config: Any, mesh: Mesh, *, seed: int | None = None) -> TrainState:
    """A fresh state, each array born where it belongs, with values that do not depend on the mesh.

    Args:
        config: the whole config.
        mesh: where the state lives.
        seed: of the parameters; None takes `config.seed`.

    Returns:
        The state at step 0.

    Raises:
        ValueError: the config is wrong, or does not fit the mesh.

    Example:
        state = init_state(config, make_mesh(config.mesh))
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    init = jax.jit(lambda seed: _init(config, seed), out_shardings=shardings)
    return on_mesh(init, mesh, rules_of(config))(config.seed if seed is None else seed)


def _init_params(config: Any, seed: int | Array) -> Any:
    """Parameters, boxed with their logical axes."""
    # With the plain attention and stack: those for a mesh could not divide one token, and parameters are the same.
    model = Transformer(make_model(config).config)
    image = model.config.choice("image")
    shape = (1, image.size, image.size, image.channels) if image.kind else (1, 1)
    return model.init(jax.random.key(seed), jnp.zeros(shape, jnp.float32 if image.kind else jnp.int32))["params"]


def _init(config: Any, seed: int | Array) -> TrainState:
    params = nn.unbox(_init_params(config, seed))
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=make_optimizer(config).init(params))


def _shardings_like_params(opt_state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """A leaf whose path ends like a parameter's, with its shape, is a moment of it and is sharded alike."""
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    places = dict(jax.tree_util.tree_leaves_with_path(shardings))

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for i in range(len(path)):
            if shapes.get(path[i:]) == leaf.shape:
                return places[path[i:]]
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, opt_state)

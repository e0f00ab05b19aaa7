"""The state that a step takes and returns."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from model import Transformer, TransformerConfig
from parallel import on_mesh, tree_shardings
from parallel.sharding import Rules

from .averaging import EmaState, averaged, averages
from .checkpoint import Checkpoints
from .compose import make_model, rules_of
from .distill import projection_of, teacher_config
from .moments import is_part, spec_of_part
from .optimizer import make_optimizer
from .parameters import matrix_of, parameter_name
from .trainable import BESIDE, add_adapters, check_names, divide, join, trained_part


class TrainState(struct.PyTreeNode):
    """All that changes in training; data order and random keys follow from `step` and the config's seed.

    Attributes:
        step: updates made, int32 scalar; also the position in the data.
        params: the parameters that are trained, float32: the model's, or some of them, or adapters.
        opt_state: the optimizer's state, moments in float32; an average of the parameters, if there is one, is in it.
        fixed: trees that a step reads and does not change, and checkpoints do not hold: "base", the parameters that are
            not trained, and "teacher", those of a model to learn from; each only if there is one.
    """

    step: Array
    params: Any
    opt_state: Any
    fixed: Any = struct.field(default_factory=dict)


def save_state(checkpoints: Checkpoints, step: int, state: TrainState, *, facts: Any = None) -> None:
    """Saves a state such that the model's parameters can be restored alone; what is fixed is not saved.

    These are the ones to be used: their average, where the optimizer keeps one, beside those that are trained.

    Args:
        checkpoints: of the run.
        step: its number.
        state: the state.
        facts: what else the checkpoint is to hold, as JSON can say it.

    Raises:
        OSError: this save or the one before failed.
    """
    params, training = _parts(state, used_params(state))
    checkpoints.save(step, facts=facts, params=params, training=training)


def restore_state(checkpoints: Checkpoints, step: int, abstract: TrainState) -> TrainState:
    """What `save_state` saved, as `abstract_state` places it, with nothing in `fixed`."""
    ema = abstract.opt_state if isinstance(abstract.opt_state, EmaState) else None
    params, training = _parts(abstract, abstract.params if ema is None else ema.average)
    items = checkpoints.restore(step, params=params, training=training)
    training = items["training"]
    beside = training.pop("beside", {})
    if ema is not None:
        saved = training["opt_state"]
        training["opt_state"] = saved._replace(average=items["params"] | saved.average)
    return TrainState(params=training.pop("trained", items["params"]) | beside, **training)


def num_bytes(state: TrainState) -> int:
    """The size of a checkpoint of a state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_parts(state, state.params)))


def _parts(state: TrainState, used: Any) -> tuple[Any, Any]:
    """The parameters of the model that are used, of those that are trained, and all else that training goes on with."""
    params, trained = ({k: leaf for k, leaf in tree.items() if k != BESIDE} for tree in (used, state.params))
    beside = {"beside": {BESIDE: state.params[BESIDE]}} if BESIDE in state.params else {}
    trained = {"trained": trained} if averages(state.opt_state) else {}
    opt_state = state.opt_state
    if isinstance(opt_state, EmaState):  # the used ones are its average, but for what is beside the model
        average = {k: leaf for k, leaf in opt_state.average.items() if k == BESIDE}
        opt_state = opt_state._replace(average=average)
    return params, {"step": state.step, "opt_state": opt_state, **trained, **beside}


def used_params(state: TrainState) -> Any:
    """`state.params`, or where the optimizer keeps an average of them, that, placed alike."""
    if not averages(state.opt_state):
        return state.params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    return jax.jit(averaged, out_shardings=shardings)(state.params, state.opt_state)


def abstract_state(config: Any, mesh: Mesh | AbstractMesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without its values: what a checkpoint is restored into.

    Raises:
        ValueError: a parameter's dim is not divisible by the mesh axes it is divided over, or
            `config.train.parameters` does not fit the model's.
    """
    check_names(config, parameter_shapes(config))
    trees = _abstract_trees(config)
    state = jax.eval_shape(functools.partial(_first, config), trees)
    shardings = TrainState(
        step=NamedSharding(mesh, PartitionSpec()),  # pyright: ignore[reportArgumentType]
        params=param_shardings(config, mesh),
        opt_state=_shardings_like_params(
            state.opt_state, state.params, param_shardings(config, mesh, of="moment"), mesh
        ),
        fixed={"base": tree_shardings(trees[1], mesh, rules_of(config))} if state.fixed else {},
    )
    state = _abstract(state, shardings)
    teacher = teacher_config(config)
    if teacher is not None:
        state.fixed["teacher"] = abstract_params(teacher, mesh, rules_of(config))
    return state


def abstract_params(config: Any, mesh: Mesh | AbstractMesh, rules: Rules) -> Any:
    """As `abstract_state`, of all parameters of a config's model."""
    params = _abstract_params(config)
    return _abstract(nn.unbox(params), tree_shardings(params, mesh, rules))


def abstract_trained(config: Any, mesh: Mesh) -> Any:
    """As `abstract_state`, of the trained parameters of the model alone, as checkpoints hold them."""
    params = _abstract(nn.unbox(_abstract_trees(config)[0]), param_shardings(config, mesh))
    return {name: leaf for name, leaf in params.items() if name != BESIDE}


def parameter_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of a config's model."""
    params = nn.unbox(_abstract_params(config))
    return {parameter_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )


def param_shardings(config: Any, mesh: Mesh | AbstractMesh, *, of: str = "") -> Any:
    """Where each trained parameter lives, or its "gradient" or "moment" if `of` says so.

    Raises:
        ValueError: a parameter's dim is not divisible by the mesh axes it is divided over.
    """
    return tree_shardings(_abstract_trees(config)[0], mesh, rules_of(config), of=of)


def logical_axes(config: Any) -> Any:
    """The logical axis of each dim of the parameters: a tree of specs of the trained ones, and one of the others."""
    return nn.get_partition_spec(_abstract_trees(config))


def all_axes(config: Any) -> Any:
    """As `logical_axes`, of all parameters of a config's model."""
    return nn.get_partition_spec(_abstract_params(config))


def moment_specs(config: Any, mesh: Mesh) -> dict[str, PartitionSpec]:
    """How the moments of each trained parameter are divided, by its name: what optimizers of matrices need to know."""
    shardings = param_shardings(config, mesh, of="moment")
    return {parameter_name(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(shardings)}


def model_shardings(config: Any, mesh: Mesh, *, of: str = "") -> Any:
    """As `param_shardings`, of all parameters of the model."""
    return tree_shardings(_abstract_params(config), mesh, rules_of(config), of=of)


def model_params(config: Any, state: TrainState) -> Any:
    """All parameters of the model to be used, trained or not, with its adapters added to what they adapt."""
    params = join(trained_part(config), used_params(state), state.fixed.get("base", {}))
    return {name: leaf for name, leaf in params.items() if name != BESIDE}


def init_state(config: Any, mesh: Mesh, *, seed: int | None = None) -> TrainState:
    """A fresh state, each array born where it belongs, with values that do not depend on the mesh.

    Args:
        config: the whole config.
        mesh: where the state lives.
        seed: of the parameters; None takes `config.seed`.

    Returns:
        The state at step 0; without a teacher, which `train.initial.first_state` reads.

    Raises:
        ValueError: the config is wrong, or does not fit the mesh.

    Example:
        state = init_state(config, make_mesh(config.mesh))
    """
    abstract = abstract_state(config, mesh)
    abstract.fixed.pop("teacher", None)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    init = jax.jit(lambda seed: _first(config, _init_trees(config, seed)), out_shardings=shardings)
    return on_mesh(init, mesh, rules_of(config))(config.seed if seed is None else seed)


def with_params(config: Any, mesh: Mesh, state: TrainState, params: Any) -> TrainState:
    """A fresh state with other parameters, from which the optimizer starts, too: an average of them is theirs.

    The optimizer's state is made anew in the place of the one that is there, which cannot be used any more.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)
    init = jax.jit(
        lambda params, old: make_optimizer(config).init(params),
        out_shardings=shardings,
        donate_argnums=1,
        keep_unused=True,  # or the old one would not be given up
    )
    return state.replace(params=params, opt_state=on_mesh(init, mesh, rules_of(config))(params, state.opt_state))


def init_base(config: Any, mesh: Mesh) -> Any:
    """The parameters of `init_state` that are not trained."""
    shardings = tree_shardings(_abstract_trees(config)[1], mesh, rules_of(config))
    init = jax.jit(lambda seed: nn.unbox(_init_trees(config, seed)[1]), out_shardings=shardings)
    return on_mesh(init, mesh, rules_of(config))(config.seed)


def _abstract_params(config: Any) -> Any:
    """The shapes of a config's parameters, boxed."""
    return _shapes(make_model(config).config)


@functools.lru_cache(maxsize=64)
def _shapes(model: TransformerConfig) -> Any:
    """Of `_init_params`: kept, as a start asks for them a dozen times."""
    return jax.eval_shape(lambda: _init_params(model, 0))


def _abstract_trees(config: Any) -> tuple[Any, Any]:
    """The shapes of `_divided`, boxed."""
    return jax.eval_shape(lambda params: _divided(config, params, 0), _abstract_params(config))


def _init_params(model: TransformerConfig, seed: int | Array) -> Any:
    """Parameters of a model, boxed with their logical axes."""
    # With the plain attention and stack: those for a mesh could not divide one token, and parameters are the same.
    image = model.choice("image")
    shape = (1, image.size, image.size, image.channels) if image.kind else (1, 1)
    inputs = jnp.zeros(shape, jnp.float32 if image.kind else jnp.int32)
    return Transformer(model).init(jax.random.key(seed), inputs)["params"]


def _init_trees(config: Any, seed: int | Array) -> tuple[Any, Any]:
    """What is trained and what is not, boxed."""
    return _divided(config, _init_params(make_model(config).config, seed), seed)


def _divided(config: Any, params: Any, seed: int | Array) -> tuple[Any, Any]:
    """Of a model's parameters, those that are trained, with what is trained beside them, and those that are not."""
    choice, key = trained_part(config), jax.random.key(seed)
    trained, base = divide(choice, params | projection_of(config, key))
    return add_adapters(choice, trained, base, key), base


def _first(config: Any, trees: tuple[Any, Any]) -> TrainState:
    """The state at step 0 of what is trained and what is not."""
    params, base = nn.unbox(trees)
    opt_state = make_optimizer(config).init(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state, fixed={"base": base} if base else {}
    )


def _shardings_like_params(opt_state: Any, params: Any, shardings: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A leaf whose path ends like a parameter's is a moment of it, or a part of one, and is sharded alike."""
    shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    places = dict(jax.tree_util.tree_leaves_with_path(shardings))

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        for i in range(len(path)):
            if path[i:] in shapes:
                kind, matrix = parameter_name(path[i - 1 : i]), matrix_of(parameter_name(path[i:]))
                if not is_part(kind):
                    assert shapes[path[i:]] == leaf.shape, path
                    return places[path[i:]]
                assert matrix is not None, path
                return NamedSharding(mesh, spec_of_part(kind, matrix, leaf.shape, places[path[i:]].spec, mesh.shape))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, opt_state)

"""The one table from logical axes to mesh axes, and the shardings that follow from it."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from .context import zigzag_order
from .mesh import AXES

Rules = tuple[tuple[str, tuple[str, ...]], ...]

# Mesh axes that the rows of a batch are divided over; "expert" devices hold different rows outside the experts.
BATCH_AXES = ("data", "fsdp", "expert")

# Logical axis -> mesh axes. Names of parameters' dims first, then of activations' dims. A name with "/gradient" or
# "/moment" says where the gradients or the optimizer's moments differ from their parameter.
_COMMON: Rules = (
    ("layers", ("stage",)),
    ("dense_layers", ()),
    ("vocab", ("tensor", "stage")),
    ("heads", ("tensor",)),
    ("kv_heads", ("tensor",)),
    ("head_dim", ()),
    ("mlp", ("tensor",)),
    ("experts", ("expert",)),
    ("router_experts", ()),
    ("latent", ()),
    ("rank", ()),
    ("gates", ()),
    ("classes", ()),
    ("token_types", ()),
    ("buckets", ()),
    ("norm", ()),
    ("length_table", ()),
    ("batch", BATCH_AXES),
    ("length", ("context",)),
    ("residual_length", ("context", "tensor")),
    ("act_embed", ()),
    ("expert_batch", ("data", "fsdp")),  # where "experts" has the expert axis
)
# ZeRO's stages (Rajbhandari et al. 2020, arXiv:1910.02054, section 5): what "fsdp" divides.
RULES: dict[str, Rules] = {
    "zero1": (("embed", ()), ("embed/gradient", ()), ("embed/moment", ("fsdp",)), *_COMMON),
    "zero2": (("embed", ()), ("embed/gradient", ("fsdp",)), ("embed/moment", ("fsdp",)), *_COMMON),
    "zero3": (("embed", ("fsdp",)), *_COMMON),
}


def make_rules(preset: str = "zero3", replaced: str = "") -> Rules:
    """Looks up a preset and replaces single rules in it.

    Args:
        preset: a key of `RULES`.
        replaced: rules such as "embed=,vocab=fsdp+tensor": a logical axis, and the mesh axes it is divided over.

    Returns:
        Pairs of logical axis and mesh axes.

    Raises:
        ValueError: an unknown preset, logical axis or mesh axis.
    """
    if preset not in RULES:
        raise ValueError(f"config.mesh.rules={preset!r} is not known; use one of {', '.join(RULES)}")
    rules = dict(RULES[preset])
    fixed = ("batch", "length")  # the input pipeline divides its arrays so
    for rule in filter(None, (part.strip() for part in replaced.split(","))):
        logical, equals, axes = (part.strip() for part in rule.partition("="))
        if not equals:
            raise ValueError(f"config.mesh.replaced_rules: {rule!r} has no '='; '{logical}=' divides it over nothing")
        if logical in fixed:
            raise ValueError(f"config.mesh.replaced_rules: {logical!r} is always divided over {rules[logical]}")
        if logical.removesuffix("/gradient").removesuffix("/moment") not in rules:
            raise ValueError(
                f"config.mesh.replaced_rules: {logical!r} is no logical axis; use one of {', '.join(rules)}"
            )
        rules[logical] = tuple(filter(None, axes.split("+")))
        unknown = [axis for axis in rules[logical] if axis not in AXES]
        if unknown:
            raise ValueError(f"config.mesh.replaced_rules: {unknown[0]!r} is no mesh axis; use one of {AXES}")
    return tuple(rules.items())


def tree_shardings(tree: Any, mesh: Mesh | AbstractMesh, rules: Rules, *, of: str = "") -> Any:
    """The sharding of each leaf of a tree whose parameters carry logical axes.

    Args:
        tree: arrays or ShapeDtypeStructs, boxed with their logical axes as Linen's `init` returns them;
            leaves without axes are replicated.
        mesh: the mesh; an abstract one will do.
        rules: as `make_rules` returns them.
        of: "gradient" or "moment" for those of the parameters.

    Returns:
        The unboxed tree with a NamedSharding for each leaf.

    Raises:
        ValueError: a dim is not divisible by the mesh axes it is divided over, or two dims want the same axis.
    """
    table = dict(rules)
    rules = tuple((name, table.get(f"{name}/{of}", axes)) for name, axes in rules)
    specs = nn.get_partition_spec(tree)
    shardings = nn.logical_to_mesh_sharding(specs, mesh, rules)  # pyright: ignore[reportArgumentType]

    def check(path: Any, leaf: Any, sharding: NamedSharding, spec: PartitionSpec) -> NamedSharding:
        for dim, (size, axes, logical) in enumerate(zip(leaf.shape, sharding.spec, spec, strict=False)):
            axes = () if axes is None else (axes,) if isinstance(axes, str) else axes
            assert logical is None or logical in dict(rules), f"{logical!r} is in no rule"
            wanted = () if logical is None else dict(rules)[logical]
            if axes != wanted:  # Flax drops a rule whose mesh axis another dim already has
                raise ValueError(
                    f"{jax.tree_util.keystr(path)}: dim {dim} ({logical!r}) is to be divided over {wanted}, of which "
                    f"another dim has a part; give each mesh axis to one dim in config.mesh.replaced_rules"
                )
            parts = int(np.prod([mesh.shape[axis] for axis in axes]))
            if size % parts:
                keys = ", ".join(f"config.mesh.{axis}={mesh.shape[axis]}" for axis in axes)
                legal = [n for n in range(1, parts + 1) if size % n == 0]
                raise ValueError(
                    f"{jax.tree_util.keystr(path)} has {size} in dim {dim} ({logical!r}), which {keys} does not "
                    f"divide; use a product of axes in {legal}"
                )
        return sharding

    return jax.tree_util.tree_map_with_path(check, nn.unbox(tree), shardings, specs)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of batch arrays (B, T): rows over `BATCH_AXES`, the length over "context"."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))


def array_sharding(mesh: Mesh, rank: int) -> NamedSharding:
    """The sharding of a batch's array of that many dims: only those of rank 2 have a length to divide."""
    return batch_sharding(mesh) if rank == 2 else NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_rows(mesh: Mesh | AbstractMesh, batch_size: int) -> None:
    """Checks that the mesh divides the rows of the global batch.

    Raises:
        ValueError: it does not.
    """
    parts = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    if batch_size % parts:
        raise ValueError(
            f"config.data.batch_size={batch_size} is not divisible by the {parts} shards of the batch "
            f"({', '.join(f'config.mesh.{a}={mesh.shape[a]}' for a in BATCH_AXES)}); "
            f"use {max(1, round(batch_size / parts)) * parts}"
        )


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of the global batch that this process must supply, in order; on a pod they may have gaps.

    Raises:
        ValueError: the batch is not divisible over the mesh.
    """
    check_rows(mesh, batch_size)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    held: set[int] = set()
    for index in sharding.addressable_devices_indices_map((batch_size,)).values():
        assert index is not None
        held.update(range(*index[0].indices(batch_size)))
    return sorted(held)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Places a batch on the mesh.

    Args:
        batch: arrays (rows of this process, T), of the full length; in one process, all rows of the global batch.
            Arrays of other ranks, such as images, have no length.
        mesh: the mesh.

    Returns:
        Global arrays (B, T); where the mesh divides the length, in `zigzag_order`.
    """
    num_shards = mesh.shape["context"]
    parts = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    local_parts = len(local_rows(mesh, parts))

    def place(array: np.ndarray) -> Array:
        if array.ndim == 2 and num_shards > 1:
            array = array[:, zigzag_order(array.shape[1], num_shards)]
        shape = (array.shape[0] * parts // local_parts, *array.shape[1:])
        return jax.make_array_from_process_local_data(array_sharding(mesh, array.ndim), array, global_shape=shape)

    return {name: place(array) for name, array in batch.items()}


def on_mesh(fn: Callable[..., Any], mesh: Mesh, rules: Rules) -> Callable[..., Any]:
    """Calls `fn`, which may be jitted, where the model's logical axes mean axes of this mesh.

    `fn` itself stays at hand as `__wrapped__`.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.set_mesh(mesh), nn.logical_axis_rules(rules):  # pyright: ignore[reportArgumentType]
            return fn(*args, **kwargs)

    return call


def num_parts(logical: str) -> int:
    """How many parts the mesh and the rules in force make of a logical axis; 1 without a mesh."""
    spec: Any = nn.logical_to_mesh_axes((logical,))
    axes = () if spec is None or spec[0] is None else spec[0]
    mesh = jax.sharding.get_abstract_mesh()
    taken = set(mesh.manual_axes)
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes) if axis not in taken)


def divides_parameters(rules: Rules, axis: str) -> bool:
    """Whether any dim but those of rows is divided over a mesh axis."""
    return any(axis in axes for logical, axes in rules if logical not in ("batch", "expert_batch"))


def sum_over_replicas(fn: Callable[[Any, Any], Any], rules: Rules) -> Callable[[Any, Any], Any]:
    """Lets each replica along "data" sum over its own rows, and adds the replicas' sums up once.

    Left to itself, XLA would all-reduce the gradients in every microbatch.

    Args:
        fn: (params, microbatches (M, B, ...)) -> a tree of sums over the rows; what it constrains, it constrains by
            logical axes, or by specs without "data".
        rules: the table of the mesh that is set where the result is called.

    Returns:
        A function of the same arguments and result.
    """
    local_rules = tuple((name, tuple(axis for axis in axes if axis != "data")) for name, axes in rules)

    def local(params: Any, microbatches: Any) -> Any:
        with nn.logical_axis_rules(local_rules):  # pyright: ignore[reportArgumentType]
            return jax.lax.psum(fn(params, microbatches), "data")

    return jax.shard_map(
        local,
        in_specs=(PartitionSpec(), PartitionSpec(None, "data")),
        out_specs=PartitionSpec(),
        axis_names={"data"},
        check_vma=False,
    )


def to_host(tree: Any) -> Any:
    """Fetches replicated or fully addressable arrays as NumPy, on any number of processes."""

    def fetch(leaf: Array) -> np.ndarray:
        if leaf.is_fully_addressable:
            return np.asarray(leaf)
        assert leaf.is_fully_replicated, f"{leaf.shape} is sharded over processes: reduce or replicate it first"
        return np.asarray(leaf.addressable_data(0))

    return jax.tree.map(fetch, tree)

"""Writing a model in Hugging Face's format: config.json and safetensors that `transformers` loads."""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from model.families import Family, Tensor, bind
from parallel import to_host

from .exchange import DTYPES, INDEX, SINGLE
from .optimizer import parameter_name


def export_tensors(
    params: Any,
    core: Mapping[str, Any],
    family: Family,
    directory: Path | str,
    *,
    max_shard_bytes: int = 5_000_000_000,
    dtype: str = "float32",
    extra: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes the weights and config.json; a file appears under its name only when it is whole, config.json last.

    All processes call this; the first one writes.

    Args:
        params: the parameters, on the host or sharded.
        core: the fields of config.model.
        family: whose format.
        directory: a local one, made if need be, that has no weights yet.
        max_shard_bytes: of a file; a larger tensor has its own.
        dtype: of the tensors: float32, float16 or bfloat16.
        extra: further keys of config.json, such as ids of special tokens.

    Returns:
        The names of the files.

    Raises:
        ValueError: the family cannot say the config, the dtype is not known, or the directory has weights.

    Example:
        export_tensors(state.params, source.core, source.family, "out", dtype=source.dtype)
    """
    directory = Path(directory).expanduser()
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype={dtype!r} is not known; use one of {', '.join(DTYPES.values())}")
    is_first, names = jax.process_index() == 0, {}
    if is_first and (old := sorted(path.name for path in directory.glob("model*.safetensors*"))):
        raise ValueError(f"{directory} already has {', '.join(old)}; give another directory, or delete them")
    leaves = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    tensors = bind(family, dict(core), {path: leaf.shape for path, leaf in leaves.items()})
    config = {**family.to_hugging_face(core, {tensor.name for tensor in tensors}), **(extra or {})}
    config |= {"dtype": dtype, "torch_dtype": dtype}  # transformers 5 and 4

    if is_first:
        directory.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(tensors, max_shard_bytes // jnp.dtype(dtype).itemsize))
    for i, shard in enumerate(shards):
        file = SINGLE if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        arrays = {}
        for tensor in shard:
            array = tensor.write({part.path: _fetch(leaves[part.path], part.index) for part in tensor.parts})
            name = family.name_in_file(core, tensor.name)
            names[name] = file
            if is_first:
                arrays[name] = array.astype(jnp.dtype(dtype))
        if is_first:
            _replace(directory / file, lambda path, arrays=arrays: save_file(arrays, path, metadata={"format": "pt"}))
    written = sorted(set(names.values()))
    if len(shards) > 1:
        size = sum(int(np.prod(tensor.shape)) for tensor in tensors) * jnp.dtype(dtype).itemsize
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(names.items()))}
        written.append(INDEX)
        if is_first:
            _replace(directory / INDEX, lambda path: path.write_text(json.dumps(index, indent=2) + "\n"))
    if is_first:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        _replace(directory / "config.json", lambda path: path.write_text(text))
    return [*written, "config.json"]


def _shards(tensors: list[Tensor], max_size: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors of at most `max_size` numbers together."""
    shard, size = [], 0
    for tensor in tensors:
        more = int(np.prod(tensor.shape))
        if shard and size + more > max_size:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += more
    yield shard


def _fetch(array: Array | np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """A layer and expert of a parameter, on the host of every process."""
    if not isinstance(array, Array):
        return np.asarray(array)[index]
    sharding = array.sharding
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
    return to_host(_take(array, index, everywhere))


@functools.partial(jax.jit, static_argnums=2)
def _take(array: Array, index: tuple[int, ...], everywhere: Any) -> Array:
    for i in index:
        array = jax.lax.dynamic_index_in_dim(array, i, keepdims=False)
    return jax.lax.with_sharding_constraint(array, everywhere)


def _replace(path: Path, write: Any) -> None:
    """Writes under another name first."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)

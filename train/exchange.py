"""Weights in Hugging Face's format: read from safetensors, one tensor at a time, into parameters wherever they live.

Only one file is open at a time, and only the shares of a parameter that this process holds are in its memory, so that a
model needs no more of it than a file and a parameter.
"""

import collections
import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open

from model.families import Family, Tensor, bind, family_of

from .optimizer import parameter_name

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NAMED = 40  # of the tensors of one kind that an error lists
SHAPE, DTYPE, COPY = "of another shape", "of a dtype that is not read", "copies that are not equal"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
Place = tuple[tuple[int, int], ...]  # first and last of each dim; slices cannot be keys before Python 3.12


class Entry(NamedTuple):
    """Where a tensor is.

    Attributes:
        file: its file.
        name: its name there.
        shape: its shape.
        dtype: its dtype, a key of `DTYPES` unless it is ignored.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A directory in Hugging Face's format.

    Attributes:
        directory: where it lies.
        config: the contents of config.json.
        family: of its model_type.
        core: the fields of config.model that it means.
        entries: its tensors, by the names of the family's table.
        dtype: of the tensors; "float32" if they differ.
    """

    directory: Path
    config: dict[str, Any] = dataclasses.field(repr=False)
    family: Family = dataclasses.field(repr=False)
    core: dict[str, Any]
    entries: dict[str, Entry] = dataclasses.field(repr=False)
    dtype: str


def open_source(directory: Path | str) -> Source:
    """Reads what a directory says about its model, but no weights.

    Args:
        directory: with config.json and safetensors, in one file or several.

    Returns:
        The model's config as the core's, and where its tensors are.

    Raises:
        ValueError: a file is missing or damaged, or the model is none of `model.families`.

    Example:
        source = open_source("~/models/Llama-3.2-1B")
    """
    directory = Path(directory).expanduser()
    config = _json(directory / "config.json")
    family = family_of(config.get("model_type", ""))
    entries: dict[str, Entry] = {}
    for path in _files(directory):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                part, known = file.get_slice(name), family.name_in_table(name)
                if known in entries:
                    raise ValueError(f"{path}: {name} is also {entries[known].name} in {entries[known].file}")
                entries[known] = Entry(path, name, tuple(part.get_shape()), part.get_dtype())
    dtypes = {DTYPES[entry.dtype] for entry in entries.values() if entry.dtype in DTYPES}
    core = family.from_hugging_face(config, entries.keys())
    return Source(directory, config, family, core, entries, dtypes.pop() if len(dtypes) == 1 else "float32")


def import_tensors(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """Reads the parameters one by one.

    Args:
        source: of `open_source`.
        shapes: of all parameters of the core, by their paths such as "layers/attention/w_q".

    Yields:
        Each path and its parameter, float32.

    Raises:
        ValueError: tensors are missing, of another shape, or too many; it names them all.
    """
    tensors = bind(source.family, source.core, shapes)
    _check(source, tensors)
    with contextlib.closing(_Reader(source)) as reader:
        for path, holders in _by_path(tensors).items():
            whole = tuple((0, size) for size in shapes[path])
            yield path, _read(reader, path, holders, [whole])[whole]


def import_params(source: Source, abstract: Any) -> Any:
    """Reads the parameters to where they belong.

    Args:
        source: of `open_source`.
        abstract: the tree of parameters as ShapeDtypeStructs with shardings.

    Returns:
        The tree as arrays.

    Raises:
        ValueError: as `import_tensors`.

    Example:
        params = import_params(source, abstract_state(config, mesh).params)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    named = {parameter_name(path): leaf for path, leaf in leaves}
    tensors = bind(source.family, source.core, {path: leaf.shape for path, leaf in named.items()})
    _check(source, tensors)
    found = {}
    with contextlib.closing(_Reader(source)) as reader:
        for path, holders in _by_path(tensors).items():
            shape, sharding = named[path].shape, named[path].sharding
            places = [_place(slices, shape) for slices in sharding.addressable_devices_indices_map(shape).values()]
            shares = _read(reader, path, holders, places)
            found[path] = jax.make_array_from_callback(
                shape,
                sharding,
                lambda slices, shares=shares, shape=shape: shares[_place(slices, shape)],
                dtype=named[path].dtype,
            )
    return jax.tree.unflatten(structure, [found[path] for path in named])


class _Reader:
    """Reads tensors with one file open at a time: what is mapped counts as memory, too."""

    def __init__(self, source: Source):
        self._source, self._path, self._stack = source, None, contextlib.ExitStack()

    def __call__(self, name: str) -> np.ndarray:
        entry = self._source.entries[name]
        if entry.file != self._path:
            self.close()
            self._path, self._file = entry.file, self._stack.enter_context(_opened(entry.file))
        return self._file.get_tensor(entry.name).astype(np.float32, copy=False)

    def close(self) -> None:
        self._stack.close()
        self._path = None


def _read(reader: _Reader, path: str, holders: list[Tensor], places: list[Place]) -> dict[Place, np.ndarray]:
    """The shares of a parameter at `places`."""
    # What no tensor holds is a norm that the family leaves out, and has no effect.
    make = np.ones if path.endswith("/scale") else np.zeros
    shares = {place: make([stop - start for start, stop in place], np.float32) for place in places}
    for tensor in holders:
        index = next(part.index for part in tensor.parts if part.path == path)
        wanted = {
            place: share
            for place, share in shares.items()
            if all(start <= i < stop for i, (start, stop) in zip(index, place, strict=False))
        }
        if wanted:
            array = tensor.read(reader(tensor.name), path)
            for place, share in wanted.items():
                here = tuple(i - start for i, (start, _) in zip(index, place, strict=False))
                share[here] = array[tuple(slice(*bounds) for bounds in place[len(index) :])]
    return shares


def _place(slices: Any, shape: tuple[int, ...]) -> Place:
    return tuple(s.indices(size)[:2] for s, size in zip(slices, shape, strict=True))


def _by_path(tensors: list[Tensor]) -> dict[str, list[Tensor]]:
    found = collections.defaultdict(list)
    for tensor in tensors:
        for part in tensor.parts:
            found[part.path].append(tensor)
    return found


def _check(source: Source, tensors: list[Tensor]) -> None:
    """All that is wrong with the tensors, in one error."""
    family, entries = source.family, source.entries
    wrong: dict[str, list[str]] = {kind: [] for kind in ("missing", "too many", SHAPE, DTYPE, COPY)}
    for tensor in tensors:
        ours = ", ".join(part.path for part in tensor.parts)
        entry = entries.get(tensor.name)
        if entry is None:
            wrong["missing"].append(f"{tensor.name} {tensor.shape}, for {ours}")
        elif entry.shape != tensor.shape:
            wrong[SHAPE].append(f"{entry.name} is {entry.shape} and must be {tensor.shape}, for {ours}")
        elif entry.dtype not in DTYPES:
            wrong[DTYPE].append(f"{entry.name} is {entry.dtype}; use {', '.join(DTYPES)}")
    known, num_layers = {tensor.name for tensor in tensors}, str(source.core["num_layers"])
    for name in entries.keys() - known:
        if name in family.copies:
            wrong[COPY] += _unequal_copy(source, name)
        elif not any(re.fullmatch(p.replace("{num_layers}", num_layers), name) for p in family.ignored):
            wrong["too many"].append(f"{entries[name].name} {entries[name].shape}")
    if any(wrong.values()):
        lines = []
        for kind, found in wrong.items():
            more = [f"and {len(found) - NAMED} more"] if len(found) > NAMED else []
            lines += [f"{len(found)} {kind}:", *(f"  {line}" for line in sorted(found)[:NAMED] + more)] if found else []
        raise ValueError(
            f"the tensors in {source.directory} are not those of its config.json as {family.model_type}:\n"
            + "\n".join(lines)
        )


def _unequal_copy(source: Source, name: str) -> list[str]:
    """Complains if a tensor that repeats another one does not."""
    entries, original = source.entries, source.family.copies[name]
    if original not in entries:
        return []
    with contextlib.closing(_Reader(source)) as reader:
        if np.array_equal(reader(name), reader(original)):
            return []
    return [f"{entries[name].name} {entries[name].shape} and {entries[original].name} {entries[original].shape}"]


def _files(directory: Path) -> list[Path]:
    """The files with the tensors."""
    if (directory / INDEX).exists():
        names = sorted(set(_json(directory / INDEX)["weight_map"].values()))
        if missing := [name for name in names if not (directory / name).exists()]:
            raise ValueError(f"{directory} has no {', '.join(missing)}, which {INDEX} names")
        return [directory / name for name in names]
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    if pickles := sorted(path.name for path in directory.glob("*.bin")):
        raise ValueError(
            f"{directory} has {', '.join(pickles)} but no safetensors. Such a file can run code when it is read, so "
            "it is not read here; convert it where PyTorch and transformers are, and where you trust it:\n"
            '  python -c "import sys, transformers as t; d = sys.argv[1]; c = t.AutoConfig.from_pretrained(d); '
            f'getattr(t, c.architectures[0]).from_pretrained(d).save_pretrained(d)" {directory}'
        )
    raise ValueError(f"{directory} has neither {SINGLE} nor {INDEX}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}; give a directory in Hugging Face's format") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except Exception as error:  # safetensors' own kind
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error

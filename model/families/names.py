"""Tensors in files and parameters of the core: which is which, and how the one becomes the other, bit for bit.

A pattern is einops' with three additions. "*" on the file's side marks where the parameters of a fused tensor follow
one another: before a group or a letter, or within a group. "G~" there says that the last dims of G that turn are pairs
in the file; here they are halves. And V, the vocabulary, is padded here. Dims have no letter where a stacked parameter
has its layers and experts.

Letters: V vocabulary, D model, N heads, K kv heads, H head dim, F mlp, E experts, C a latent width; P and G dims of
which the last turn; T positions, B buckets, Y token types, Z classes; h w c rows, columns and channels of a patch.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

import numpy as np
from einops import rearrange

from .family import Config, Family, options

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A parameter's share of a tensor.

    Attributes:
        path: of our parameter, "layers/attention/w_q".
        index: of the layer and the expert, () if the parameter is not stacked.
        shape: of the parameter, without what `index` takes.
        file: the file's side of the pattern, without marks, and with the joined group open.
        ours: our side.
        lengths: of all letters.
        pairs: dim of ours whose last `turning` are pairs in the file; None if there is none.
        turning: how many.
        vocabulary: dim of ours that is padded; None if there is none.
    """

    path: str
    index: Index
    shape: tuple[int, ...]
    file: str
    ours: str
    lengths: Mapping[str, int]
    pairs: int | None
    turning: int
    vocabulary: int | None

    @functools.cached_property
    def file_shape(self) -> tuple[int, ...]:
        """Of the share in the file, with the joined group open."""
        groups = re.findall(r"\(([^)]*)\)|(\S+)", self.file)
        return tuple(math.prod(self.lengths[n] for n in (group or letter).split()) for group, letter in groups)

    def read(self, share: np.ndarray) -> np.ndarray:
        """The parameter from its share."""
        array = rearrange(share, f"{self.file} -> {self.ours}", **_given(self.file, self.lengths))
        if self.pairs is not None:
            array = np.take(array, _halves(array.shape[self.pairs], self.turning), axis=self.pairs)
        if self.vocabulary is not None:
            widths = [(0, full - here) for full, here in zip(self.shape, array.shape, strict=True)]
            array = np.pad(array, widths)
        return array

    def write(self, array: np.ndarray) -> np.ndarray:
        """The share from the parameter."""
        if self.vocabulary is not None:
            array = np.take(array, range(self.lengths["V"]), axis=self.vocabulary)
        if self.pairs is not None:
            array = np.take(array, np.argsort(_halves(array.shape[self.pairs], self.turning)), axis=self.pairs)
        return rearrange(array, f"{self.ours} -> {self.file}", **_given(self.ours, self.lengths))


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the file and the parameters it holds.

    Attributes:
        name: in the file.
        parts: what it holds, in order.
        join: dim along which they follow one another, once its group is open.
        group: number of dims that the file has as one from the one that opened, or 1.
        opened: first dim of that group.
    """

    name: str
    parts: tuple[Part, ...]
    join: int
    opened: int
    group: int

    @functools.cached_property
    def open_shape(self) -> tuple[int, ...]:
        """Of all parts together, with the joined group open."""
        shape = list(self.parts[0].file_shape)
        if len(self.parts) > 1:
            shape[self.join] = sum(part.file_shape[self.join] for part in self.parts)
        return tuple(shape)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """In the file."""
        first, last = self.opened, self.opened + self.group
        return (*self.open_shape[:first], math.prod(self.open_shape[first:last]), *self.open_shape[last:])

    def read(self, array: np.ndarray, path: str) -> np.ndarray:
        """One of the parameters from the tensor."""
        array, start = array.reshape(self.open_shape), 0
        for part in self.parts:
            stop = start + part.file_shape[self.join]
            if part.path == path:
                share = array if len(self.parts) == 1 else array[(slice(None),) * self.join + (slice(start, stop),)]
                return part.read(share)
            start = stop
        raise KeyError(path)

    def write(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The tensor from its parameters, by their paths; without what `index` takes."""
        shares = [part.write(arrays[part.path]) for part in self.parts]
        joined = shares[0] if len(shares) == 1 else np.concatenate(shares, self.join)
        return np.ascontiguousarray(joined.reshape(self.shape))


def bind(family: Family, core: Config, shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """The tensors of a model.

    Args:
        family: its names.
        core: the core's config, of which the vocabulary, the turning dims and the patches matter here.
        shapes: of our parameters, by their paths.

    Returns:
        What the file has, in the order of the family's table; layers and experts of one name follow one another.

    Raises:
        ValueError: a parameter has no name in the family.
    """
    tensors: list[Tensor] = []
    for name, rules in family.weights.items():
        for group in _stacks([rules] if isinstance(rules, str) else list(rules), shapes):
            tensors += _tensors(name, group, core, shapes)
    named = {part.path for tensor in tensors for part in tensor.parts}
    if nameless := sorted(set(shapes) - named):
        raise ValueError(
            f"{family.model_type} has no name for {', '.join(nameless)}; these parameters come from fields of "
            "config.model that the family does not have"
        )
    return tensors


def _stacks(rules: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """The rules for each stack of layers that has their parameters: `layers` may have `dense_layers` before them."""
    stacks = [rules]
    if rules[0].startswith("layers/"):
        stacks.insert(0, [f"dense_{rule}" for rule in rules])
    return [stack for stack in stacks if all(_applies(rule, shapes) for rule in stack)]


def _applies(rule: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether there is the rule's parameter, "with" or "without" the one beside it."""
    path, *condition = rule.partition(":")[0].split()
    if not condition:
        return path in shapes
    beside = f"{path.rpartition('/')[0]}/{condition[1]}"
    return path in shapes and (beside in shapes) == (condition[0] == "with")


def _tensors(name: str, rules: list[str], core: Config, shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """A tensor for each layer and expert."""
    path = rules[0].partition(":")[0].split()[0]
    first = core.get("num_dense_layers", 0) if path.startswith("layers/") else 0
    # The first layer's attention has no norm of its own in some: ours is there, and not used.
    skipped = "{i}" in name and core.get("embedding_norm") == "first" and "/attention_norm/" in path
    num_layers = shapes[path][0] if "{i}" in name else 1
    num_experts = shapes[path][1] if "{e}" in name else 1
    found = []
    for i in range(int(skipped), num_layers):
        for e in range(num_experts):
            index = tuple(n for letter, n in (("{i}", i), ("{e}", e)) if letter in name)
            parts, place = [], (0, 0, 1)
            for rule in rules:
                part, place = _part(rule, index, core, shapes)
                parts.append(part)
            found.append(Tensor(name.format(i=i + first, e=e), tuple(parts), *place))
    return found


def _part(
    rule: str, index: Index, core: Config, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Part, tuple[int, int, int]]:
    """A part, and where it is joined: the dim, the first dim of the group that opens for it, and that group's dims."""
    path, pattern = rule.partition(":")[0].split()[0], rule.partition(":")[2].strip()
    file, _, ours = (text.strip() for text in pattern.partition("->"))
    ours = ours or file.replace("*", "").replace("~", "")
    pairs = re.search(r"(\w)~", file)
    file, place = _open(file.replace("~", ""))
    shape = shapes[path][len(index) :]
    tops = re.findall(r"\([^)]*\)|\S+", ours)
    if len(tops) != len(shape):
        raise ValueError(f"{path} has shape {shape}, but its name's pattern is {pattern!r}")
    lengths = {"1": 1} | dict(zip(tops, shape, strict=True))
    if core.get("image"):
        image = options(core["image"])
        lengths |= {"h": image["patch"], "w": image["patch"], "c": image["channels"]}
    if "V" in lengths:
        lengths["V"] = core["vocab_size"]
    part = Part(
        path=path,
        index=index,
        shape=shape,
        file=file,
        ours=ours,
        lengths=lengths,
        pairs=tops.index(pairs[1]) if pairs else None,
        turning=options(core["latent_attention"])["rope"] if pairs else 0,
        vocabulary=tops.index("V") if "V" in tops else None,
    )
    return part, place


def _open(file: str) -> tuple[str, tuple[int, int, int]]:
    """The file's side without "*", its group open if "*" is within one; and where parts are joined."""
    tops = re.findall(r"\*?\([^)]*\)|\S+", file)
    for i, top in enumerate(tops):
        if top.startswith("*"):
            return file.replace("*", ""), (i, i, 1)
        if "*" in top:
            letters = top.strip("()").split()
            join = i + next(n for n, letter in enumerate(letters) if "*" in letter)
            tops[i] = " ".join(letters).replace("*", "")
            return " ".join(tops), (join, i, len(letters))
    return file, (0, 0, 1)


def _given(side: str, lengths: Mapping[str, int]) -> dict[str, int]:
    """The lengths that einops cannot read from the shape."""
    return {n: lengths[n] for group in re.findall(r"\(([^)]*)\)", side) for n in group.split() if n != "1"}


def _halves(size: int, turning: int) -> np.ndarray:
    """Where each of ours is in the file: of the last `turning`, the firsts of the pairs, then the seconds."""
    kept, pairs = np.arange(size - turning), np.arange(size - turning, size)
    return np.concatenate([kept, pairs[0::2], pairs[1::2]])

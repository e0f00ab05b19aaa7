"""Which collectives a compiled program runs: kind, bytes, mesh axes, and how often, loops multiplied out.

XLA decides what is communicated, so the only proof that a sharding costs what the textbook says is the program that
it compiled. This reads that program's text; it needs no device.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from .hlo import ArrayShape, Instruction, Program, parse_program
from .loops import PASS_THROUGH, Call, Calls, outside_fusions

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all", "collective-permute")
KINDS += ("collective-broadcast",)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
        kind: one of `KINDS`.
        tensors: what it moves, in the size that counts: the whole output of an all-gather, the whole input of a
            reduce-scatter, a device's tensor in the other kinds. Several where XLA combined operations.
        groups: the devices, by their position in the mesh, that talk to one another; of a permute, (source, target).
        axes: the mesh axes that differ within a group.
        trips: iterations of the loops around it, from the outermost.
        op_name: where JAX made it.
    """

    kind: str
    tensors: tuple[ArrayShape, ...]
    groups: tuple[tuple[int, ...], ...]
    axes: tuple[str, ...]
    trips: tuple[int, ...]
    op_name: str

    @property
    def runs(self) -> int:
        """How often it runs in one call of the program."""
        return math.prod(self.trips)

    @property
    def bytes(self) -> int:
        """Bytes of one run."""
        return sum(tensor.bytes for tensor in self.tensors)


@dataclasses.dataclass(frozen=True)
class Total:
    """What the collectives of one kind along the same axes add up to.

    Attributes:
        tensors: tensors moved in one call of the program; how XLA combines them into operations does not matter.
        bytes: their bytes.
    """

    tensors: int = 0
    bytes: int = 0

    def __add__(self, other: "Total") -> "Total":
        return Total(self.tensors + other.tensors, self.bytes + other.bytes)


Totals = dict[tuple[str, tuple[str, ...]], Total]


def collectives(text: str, axis_sizes: Mapping[str, int], *, sliced_all_reduce: bool = True) -> list[Collective]:
    """Lists the collectives of a compiled program, in the order in which its text reaches them.

    Asynchronous pairs count once, and groups of one device not at all. Of the branches of a conditional, the one that
    moves most bytes counts.

    Args:
        text: `compiled.as_text()`.
        axis_sizes: `mesh.shape`; the program's devices are those of the mesh in row-major order.
        sliced_all_reduce: call an all-reduce of which each device keeps only its own part a reduce-scatter. XLA
            writes reduce-scatters so for CPUs and for several generations of TPU.

    Returns:
        The collectives.

    Raises:
        ValueError: a loop with a collective in it does not say how often it runs.

    Example:
        collectives(step.lower(state, batch).compile().as_text(), mesh.shape)
    """
    walk = _Walk(parse_program(text), axis_sizes, sliced_all_reduce)
    return list(walk.computation(walk.calls.entry, ()))


def totals(found: list[Collective], *, min_size: int = 2) -> Totals:
    """Adds up what each kind along each axes moves.

    Args:
        found: as `collectives` returns them.
        min_size: tensors of fewer elements are left out; by default the scalars, which a loss and norms are made of.

    Returns:
        (kind, mesh axes) -> number of tensors and their bytes in one call of the program.
    """
    added: Totals = {}
    for one in found:
        large = [tensor for tensor in one.tensors if tensor.size >= min_size]
        if large and one.runs:
            total = Total(len(large) * one.runs, sum(tensor.bytes for tensor in large) * one.runs)
            added[one.kind, one.axes] = added.get((one.kind, one.axes), Total()) + total
    return added


def format_collectives(found: list[Collective]) -> str:
    """A table of the collectives, equal ones in one line, for people."""
    rows: dict[tuple[str, ...], Total] = {}
    for one in found:
        for tensor in one.tensors:
            key = (one.kind, "+".join(one.axes), str(tensor), " x ".join(map(str, one.trips)) or "1", one.op_name)
            rows[key] = rows.get(key, Total()) + Total(one.runs, tensor.bytes * one.runs)
    lines = [("collective", "axes", "tensor", "loops", "count", "bytes", "from")]
    for (kind, axes, tensor, trips, name), total in rows.items():
        lines.append((kind, axes, tensor, trips, str(total.tensors), f"{total.bytes:,}", name))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


class _Walk:
    """Follows a program from its entry through everything it calls."""

    def __init__(self, program: Program, axis_sizes: Mapping[str, int], sliced_all_reduce: bool):
        self.calls, self.program = Calls(program), program
        self.axis_sizes, self.sliced_all_reduce = axis_sizes, sliced_all_reduce
        self.counted: set[tuple[Call, str]] = set()  # TPUs spread one collective over a chain of fusions

    def computation(self, call: Call, trips: tuple[int, ...]) -> Iterator[Collective]:
        for instruction in call.computation.instructions.values():
            yield from self.instruction(call, instruction, trips)

    def instruction(self, call: Call, instruction: Instruction, trips: tuple[int, ...]) -> Iterator[Collective]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            yield from self.collective(call, instruction, kind, trips)
        elif instruction.opcode == "while":
            body = instruction.attribute(r"\bbody=%?([\w.-]+)")
            inside = list(self.computation(self.calls.enter(call, instruction, body), trips))
            if inside:
                iterations = self.calls.trip_count(call, instruction)
                if iterations is None:
                    raise ValueError(
                        f"the loop {instruction.name} has collectives in it, but not a known number of iterations"
                    )
                at = len(trips)
                for one in inside:
                    yield dataclasses.replace(one, trips=(*one.trips[:at], iterations, *one.trips[at:]))
        elif instruction.opcode == "conditional":
            branches = [
                list(self.computation(self.calls.enter(call, instruction, name), trips)) for name in instruction.called
            ]
            yield from max(branches, key=lambda branch: sum(one.bytes * one.runs for one in branch))
        elif instruction.opcode in ("fusion", "call", "async-start"):
            for name in instruction.called:
                yield from self.computation(self.calls.enter(call, instruction, name), trips)

    def collective(
        self, call: Call, instruction: Instruction, kind: str, trips: tuple[int, ...]
    ) -> Iterator[Collective]:
        chain = instruction.attribute(r'\bchain_id="(\w+)"')
        if chain is not None:
            key = (outside_fusions(call), chain)
            if key in self.counted:
                return
            self.counted.add(key)
        groups = device_groups(instruction.attributes, self.program.num_devices)
        parts = max(map(len, groups), default=1)
        if kind == "collective-permute":
            groups = tuple(pair for pair in groups if pair[0] != pair[1])
        if parts == 1 or not groups:
            return
        tensors, scattered = self.tensors(instruction, kind), []
        if kind == "reduce-scatter":
            tensors = tuple(_times(tensor, parts) for tensor in tensors)
        if kind == "all-reduce" and self.sliced_all_reduce:
            scattered = [i for i in range(len(tensors)) if self.keeps_own_part(call, instruction, i, parts)]
        axes = axes_of(groups, self.axis_sizes)
        op_name = instruction.attribute(r'op_name="([^"]*)"') or (
            call.site and call.site.attribute(r'op_name="([^"]*)"')
        )
        for kept_kind, indices in (
            (kind, [i for i in range(len(tensors)) if i not in scattered]),
            ("reduce-scatter", scattered),
        ):
            if indices:
                moved = tuple(tensors[i] for i in indices)
                yield Collective(kept_kind, moved, groups, axes, trips, op_name or "")

    def tensors(self, instruction: Instruction, kind: str) -> tuple[ArrayShape, ...]:
        """The results; a -start returns its operands beside them, except for an all-reduce."""
        is_start = instruction.opcode.endswith("-start")
        if is_start and kind != "all-reduce":
            return instruction.arrays(1)
        if kind == "all-to-all" and len(instruction.elements) > 1 and not is_start:
            # The tuple form: one result a peer, which are parts of one tensor.
            first = instruction.arrays(0)[0]
            return (_times(first, len(instruction.elements)),)
        return instruction.arrays()

    def keeps_own_part(self, call: Call, instruction: Instruction, index: int, parts: int) -> bool:
        """Whether all that is used of a result is the slice that belongs to the device."""
        if len(instruction.elements) == 1:
            return self.only_sliced(call, instruction, parts)
        users = [
            user
            for user in call.computation.users[instruction.name]
            if user.opcode != "get-tuple-element" or user.attribute(r"index=(\d+)") == str(index)
        ]
        return bool(users) and all(
            user.opcode == "get-tuple-element" and self.only_sliced(call, user, parts) for user in users
        )

    def only_sliced(self, call: Call, value: Instruction, parts: int) -> bool:
        users = call.computation.users[value.name]
        return bool(users) and not value.is_root and all(self.is_slice(call, user, value, parts) for user in users)

    def is_slice(self, call: Call, user: Instruction, value: Instruction, parts: int) -> bool:
        if user.opcode in (*PASS_THROUGH, "all-reduce-done"):
            return self.only_sliced(call, user, parts)
        if user.opcode == "fusion":
            inner = self.calls.enter(call, user, user.called[0])
            places = [i for i, operand in enumerate(user.operands) if operand == value.name]
            return all(self.only_sliced(inner, inner.computation.parameters[i], parts) for i in places)
        if user.opcode != "dynamic-slice" or user.operands[0] != value.name:
            return False
        return user.arrays()[0].size * parts == value.arrays()[0].size and any(
            self.knows_device(call, offset, None) for offset in user.operands[1:]
        )

    def knows_device(self, call: Call, name: str, index: int | None) -> bool:
        """Whether a value (or one of a tuple) is computed from the number of the device."""
        value = call.computation.instructions.get(name)
        if value is None:
            return False
        if value.opcode in ("partition-id", "replica-id"):
            return True
        if value.opcode == "parameter":
            if call.caller is None or call.site is None:
                return False
            place = 0 if call.site.opcode == "while" else int(value.operands[0])
            return self.knows_device(call.caller, call.site.operands[place], index)
        if value.opcode == "get-tuple-element":
            return self.knows_device(call, value.operands[0], int(value.attribute(r"index=(\d+)") or 0))
        operands = value.operands
        if value.opcode == "tuple" and index is not None:
            operands = (operands[index],)
        return any(self.knows_device(call, operand, None) for operand in operands)


def _times(shape: ArrayShape, parts: int) -> ArrayShape:
    """The shape of `parts` such tensors together; which dim they share does not matter to the bytes."""
    return ArrayShape(shape.dtype, (parts, *shape.dims))


def device_groups(attributes: str, num_devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of devices of a collective, in any of XLA's notations.

    Args:
        attributes: text with one of replica_groups={{0,1},{2,3}}, replica_groups=[2,2]<=[4], with a transposition as
            in [2,2]<=[2,2]T(1,0), replica_groups=mesh['x'=2,'y'=2] {'y'}, or source_target_pairs={{0,1},{1,0}}.
        num_devices: of the program; no groups mean that all talk to one another.

    Returns:
        The groups; of a permute the pairs (source, target).
    """
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", attributes):
        groups = re.findall(r"\{([\d, ]*)\}", found[1])
        return tuple(tuple(int(device) for device in group.split(",")) for group in groups if group.strip())
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, source, order = (_numbers(part or "") for part in found.groups())
        devices = np.arange(math.prod(source)).reshape(source).transpose(order or None)
        return tuple(tuple(group) for group in devices.reshape(-1, shape[-1]).tolist())
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", attributes):
        return _mesh_groups(*found.groups())
    return (tuple(range(num_devices)),)


def _mesh_groups(sizes: str, order: str | None, axes: str) -> tuple[tuple[int, ...], ...]:
    """Groups along named axes, or parts of them: of an axis of places (2, 4, rest), 'x':(2)4 are the 4."""
    shape = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", sizes)}
    wanted = re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?(?:,|$)", axes.replace(" ", ""))
    dims: list[int] = []
    chosen: dict[tuple[str, int], int] = {}  # (axis, what lies before its part) -> dim
    for name, size in shape.items():
        # Split the axis at every edge of a wanted part of it.
        edges = {1, size}
        for part, before, length in wanted:
            if part == name and before:
                edges |= {int(before), int(before) * int(length)}
        for before, after in itertools.pairwise(sorted(edges)):
            chosen[name, before] = len(dims)
            dims.append(after // before)
        if size == 1:
            chosen[name, 1] = len(dims)
            dims.append(1)
    along: list[int] = []
    for name, before, length in wanted:
        start, end = (int(before), int(before) * int(length)) if before else (1, max(2, shape[name]))
        along += [dim for (axis, edge), dim in chosen.items() if axis == name and start <= edge < end]
    devices = _device_order(order, math.prod(dims)).reshape(dims)
    others = [dim for dim in range(len(dims)) if dim not in along]
    groups = devices.transpose(*others, *along).reshape(-1, math.prod(dims[dim] for dim in along))
    return tuple(tuple(group) for group in groups.tolist())


def _device_order(order: str | None, num_devices: int) -> np.ndarray:
    """Devices from text such as "[2,2]T(1,0)", the transposed numbers from 0, or "3,1,2,0"; None is from 0."""
    if order is None:
        return np.arange(num_devices)
    if found := re.match(r"\[([\d,]+)\](?:T\(([\d,]+))?", order):
        shape, transposed = (_numbers(part or "") for part in found.groups())
        return np.arange(num_devices).reshape(shape).transpose(transposed or None).reshape(-1)
    return np.array(_numbers(order))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def axes_of(groups: tuple[tuple[int, ...], ...], axis_sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    varying: set[int] = set()
    for group in groups:
        places = np.array(np.unravel_index(np.array(group), tuple(axis_sizes.values())))
        varying.update(np.flatnonzero((places != places[:, :1]).any(axis=1)).tolist())
    return tuple(axis for i, axis in enumerate(axis_sizes) if i in varying)

"""XLA's text of a compiled program as instructions: just enough of it to follow loops, calls and values."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bits of an element; types of control values (token, opaque) have none.
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}

_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_END = re.compile(r"\}\s*(?:$|, execution_thread)")
_CALLED = re.compile(r"\b(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """Element type and dims of an array, such as f32[8,128]."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding."""
        bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return -(-self.size * bits // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: without the leading %.
        opcode: such as "all-gather-start".
        elements: the text of each element of a tuple's type; of an array one element.
        operands: names of the operands; of a parameter or constant the literal text.
        attributes: what follows the operands.
        is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    elements: tuple[str, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def arrays(self, element: int | None = None) -> tuple[ArrayShape, ...]:
        """All arrays of the type, nested tuples flattened, or those of one element of the tuple."""
        text = ",".join(self.elements) if element is None else self.elements[element]
        found = _ARRAY.findall(re.sub(r"\{[^}]*\}", "", text))
        return tuple(
            ArrayShape(dtype, tuple(int(dim.lstrip("<=")) for dim in dims.split(",") if dim)) for dtype, dims in found
        )

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found and found[1]

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it names, in order."""
        branches = self.attribute(r"\bbranch_computations=\{([^}]*)\}")
        listed = [name.strip().lstrip("%") for name in branches.split(",")] if branches else []
        return (*_CALLED.findall(self.attributes), *listed)


@dataclasses.dataclass(frozen=True)
class Computation:
    """The instructions of one computation by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction that is its result."""
        return next(i for i in self.instructions.values() if i.is_root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(i.operands[0]): i for i in self.instructions.values() if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who uses the value of each instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in set(instruction.operands) & users.keys():
                users[operand].append(instruction)
        return users


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
        computations: by name.
        entry: name of the one that runs.
        num_devices: partitions times replicas.
    """

    computations: dict[str, Computation]
    entry: str
    num_devices: int


def parse_program(text: str) -> Program:
    """Reads what `compiled.as_text()` returns.

    Raises:
        ValueError: the text has no entry computation.
    """
    # Comments, and quoted text in which a bracket could stand, are nobody's business here.
    text = re.sub(r"/\*.*?\*/", "", text)
    header = text.partition("\n")[0]
    counts = [re.search(rf"\b{key}=(\d+)", header) for key in ("num_partitions", "replica_count")]
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _joined(text.splitlines()):
        if current is None:
            if opened := _COMPUTATION.match(line):
                current = computations.setdefault(opened[2], Computation(opened[2], {}))
                entry = opened[2] if opened[1] else entry
        elif _END.match(line):
            current = None
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(found[2], found[3], is_root=bool(found[1]))
            current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation")
    return Program(computations, entry, math.prod(int(count[1]) for count in counts if count))


def _joined(lines: list[str]) -> Iterator[str]:
    """The lines, those that go on with an instruction joined to it: what kernels say of themselves has line breaks."""
    held = ""
    for line in lines:
        if held.startswith(" ") and line and not line[0].isspace() and not _END.match(line):
            held += line
            continue
        yield held
        held = line
    yield held


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    """Splits "type opcode(operands), attributes"."""
    end = _closing(text, 0) + 1 if text.startswith("(") else _end_of_array(text)
    kind, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    elements = tuple(_split(kind[1:-1])) if kind.startswith("(") else (kind,)
    # Some versions write the operands' types before their names.
    operands = tuple(part.rsplit(" ", 1)[-1].lstrip("%") for part in _split(rest[len(opcode) + 1 : close]))
    return Instruction(name, opcode.strip(), elements, operands, rest[close + 1 :].lstrip(", "), is_root)


def _end_of_array(text: str) -> int:
    """Where a type such as f32[8,128]{1,0:T(8,128)} ends."""
    return text.index(" ")


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return len(text)


def _split(text: str) -> Iterator[str]:
    """Parts at the commas that are in no bracket."""
    depth = start = 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            yield text[start:i].strip()
            start = i + 1
    if text[start:].strip():
        yield text[start:].strip()

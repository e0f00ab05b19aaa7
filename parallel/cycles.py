"""What a program for TPUs computes by its compiler's word: cycles of operations, and the kernels it cannot see into.

Each operation of an optimized program for TPUs carries "estimated_cycles", of one run of it. Collectives have none
worth the name, and kernels (Pallas) are opaque: those are listed, to be counted by other means.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

from .collectives import KINDS
from .hlo import Instruction, Program
from .loops import Call, Calls

# Custom calls that compute something: Pallas kernels on TPUs and GPUs, and cuDNN's and cuBLAS's functions.
_KERNEL = re.compile(r"tpu_custom_call|__gpu\$xla\.gpu\.triton|mosaic|__cudnn\$|__cublas\$")
# What runs beside the computation: copies between memories, collectives, and what waits for them.
_ASYNC = ("-start", "-done", "-update")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a program.

    Attributes:
        target: of the custom call.
        name: of the instruction, and where JAX made it.
        runs: how often it runs in one call of the program.
    """

    target: str
    name: str
    runs: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What runs in one call of a program, loops multiplied out.

    Attributes:
        cycles: estimated, by opcode.
        kernels: those that the cycles leave out.
        endless: names of loops of unknown length, which were counted as one round.
    """

    cycles: dict[str, int]
    kernels: tuple[Kernel, ...] = ()
    endless: tuple[str, ...] = ()

    @property
    def total_cycles(self) -> int:
        """All estimated cycles."""
        return sum(self.cycles.values())


def work(program: Program) -> Work:
    """Adds up what a compiled program computes on one device.

    Of the branches of a conditional, the one with most cycles counts.

    Args:
        program: as `parse_program` reads the text of a program that was compiled for TPUs; of other platforms it has
            no cycles.

    Example:
        work(parse_program(compiled.as_text())).total_cycles / chip.clock_hz
    """
    calls = Calls(program)
    return _of_computation(calls, calls.entry)


def _of_computation(calls: Calls, call: Call) -> Work:
    return _sum(_of_instruction(calls, call, one) for one in call.computation.instructions.values())


def _of_instruction(calls: Calls, call: Call, instruction: Instruction) -> Work:
    opcode = instruction.opcode
    if opcode == "while":
        body = instruction.attribute(r"\bbody=%?([\w.-]+)")
        inside = _of_computation(calls, calls.enter(call, instruction, body))
        trips = calls.trip_count(call, instruction)
        endless = (instruction.name,) if trips is None and (inside.cycles or inside.kernels) else ()
        return _sum([_times(inside, 1 if trips is None else trips), Work({}, (), endless)])
    if opcode == "conditional":
        branches = [_of_computation(calls, calls.enter(call, instruction, name)) for name in instruction.called]
        return max(branches, key=lambda branch: (branch.total_cycles, len(branch.kernels)))
    if opcode == "call":
        return _sum(_of_computation(calls, calls.enter(call, instruction, name)) for name in instruction.called)
    if opcode == "custom-call":
        target = instruction.attribute(r'custom_call_target="([^"]*)"') or ""
        if _KERNEL.search(target):
            made = instruction.attribute(r'op_name="([^"]*)"') or ""
            return Work({}, (Kernel(target, f"{instruction.name} {made}".strip(), 1),))
    if opcode.endswith(_ASYNC) or opcode in KINDS:
        return Work({})
    cycles = int(instruction.attribute(r'"estimated_cycles":"(\d+)"') or 0)
    return Work({opcode: cycles} if cycles else {})


def _times(one: Work, count: int) -> Work:
    kernels = tuple(dataclasses.replace(kernel, runs=kernel.runs * count) for kernel in one.kernels if count)
    return Work({opcode: cycles * count for opcode, cycles in one.cycles.items()}, kernels, one.endless)


def _sum(parts: Iterable[Work]) -> Work:
    cycles: Counter[str] = Counter()
    kernels: list[Kernel] = []
    endless: list[str] = []
    for part in parts:
        cycles.update(part.cycles)
        kernels += part.kernels
        endless += part.endless
    return Work(dict(cycles), tuple(kernels), tuple(endless))

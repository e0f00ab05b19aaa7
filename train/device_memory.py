"""What a compiled step needs of a device's memory, by the compiler's own word."""

import dataclasses
import math
import re
from typing import Any

import jax

from parallel import Machine

_SIZE = r"([\d.]+[KMGT]?)i?B?"
# How libtpu says that a program does not fit: what it needs, and what there is.
_TEMPORARIES = rf"total memory required for HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"
_IN_ALL = (rf"Used {_SIZE} of {_SIZE} hbm", rf"Requires {_SIZE}, has {_SIZE} available")


@dataclasses.dataclass(frozen=True)
class CompiledMemory:
    """Bytes of one device; those on paper are `train.memory.Memory`.

    Attributes:
        available: for a program.
        needed: what the compiler holds against that.
        arguments: state and batch.
        outputs: new state and metrics.
        aliased: outputs that take the place of arguments.
        temporaries: what is laid out for activations, gradients, gathered parameters and all else that lives within the
            step.
        code: the program itself.
        host: of the host's memory, what waits there for the backward pass, of each device.
        by_compiler: whether the compiler itself said that it does not fit; then it is at least what is needed, and
            parts are 0 that it did not tell.
        largest: the largest allocations then, in the compiler's words.
    """

    available: int
    needed: int
    arguments: int = 0
    outputs: int = 0
    aliased: int = 0
    temporaries: int = 0
    code: int = 0
    host: int = 0
    by_compiler: bool = False
    largest: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return not self.by_compiler and self.needed <= self.available


def memory_of(program: jax.stages.Compiled, machine: Machine) -> CompiledMemory:
    """What a program that was compiled says of its memory.

    libtpu spreads temporaries out where there is room and packs them closer where there is not, down to the peak of
    what lives at one time: of a program of 280 MiB of arguments and 1,280 of temporaries the peak was 1,064, and it fit
    into 1,404 with 784 of temporaries. So on TPUs the peak is what is needed, elsewhere the sum of the parts.

    Its peak is that of the fuller memory, though: arguments and what waits on the host, where that is more. Where there
    is any, what is needed is at most that, the sum of the device's parts, and what there is, as libtpu refuses more.
    """
    said: Any = program.memory_analysis()
    parts = {
        "arguments": said.argument_size_in_bytes,
        "outputs": said.output_size_in_bytes,
        "aliased": said.alias_size_in_bytes,
        "temporaries": said.temp_size_in_bytes,
        "code": said.generated_code_size_in_bytes,
        "host": said.host_temp_size_in_bytes,
    }
    available = machine.chip.usable_bytes
    total = parts["arguments"] + parts["outputs"] - parts["aliased"] + parts["temporaries"]
    needed = said.peak_memory_in_bytes if machine.chip.platform == "tpu" else total
    if parts["host"]:
        needed = min(needed, total, available)
    return CompiledMemory(available, needed or total, **parts)


def memory_of_error(message: str, machine: Machine, *, arguments: int) -> CompiledMemory | None:
    """What a compiler's error says of memory; None if it is about something else.

    Args:
        message: of the error.
        machine: what was compiled for.
        arguments: bytes of the step's arguments on a device, of which libtpu says nothing if its temporaries alone have
            no room.
    """
    if found := re.search(_TEMPORARIES, message):
        temporaries, available = _bytes(found[1]), _bytes(found[2])
        return CompiledMemory(available, temporaries + arguments, arguments, temporaries=temporaries, by_compiler=True)
    for pattern in _IN_ALL:
        if found := re.search(pattern, message):
            needed, available = _bytes(found[1]), _bytes(found[2])
            return CompiledMemory(available, needed, arguments, by_compiler=True, largest=_largest(message))
    if "RESOURCE_EXHAUSTED" in message:
        return CompiledMemory(machine.chip.usable_bytes, arguments, arguments, by_compiler=True)
    return None


def argument_bytes(*trees: Any) -> int:
    """Bytes on one device of abstract arrays with shardings."""
    leaves = jax.tree.leaves(trees)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _bytes(size: str) -> int:
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?).*", size, re.DOTALL).groups()  # pyright: ignore
    return int(float(number) * 2 ** (10 * " KMGT".index(unit or " ")))


def _largest(message: str) -> tuple[str, ...]:
    """The first of the allocations that libtpu lists, each in a line."""
    found = re.findall(r"Size: (\S+)\n(?:\s*Operator: op_name=\"([^\"]*)\".*\n)?\s*Shape: (\S+)", message)
    return tuple(f"{size} {shape.partition('{')[0]} {made}".strip() for size, made, shape in found[:5])

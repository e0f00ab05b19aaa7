"""How a compiled program runs through its computations: what calls what, and how often a loop goes round."""

import dataclasses

from .hlo import Computation, Instruction, Program

# What hands on a value as it is, but for its type and layout.
PASS_THROUGH = ("bitcast", "copy", "reshape", "transpose", "convert", "optimization-barrier")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A computation, the instruction that called it, and where that one stands."""

    computation: Computation
    site: Instruction | None
    caller: "Call | None"


class Calls:
    """The calls of a program.

    Args:
        program: as `parse_program` reads it.
    """

    def __init__(self, program: Program):
        self._computations = program.computations
        self.entry = Call(program.computations[program.entry], None, None)

    def enter(self, call: Call, site: Instruction, name: str | None) -> Call:
        """The call of a computation by an instruction."""
        return Call(self._computations[name or ""], site, call)

    def trip_count(self, call: Call, loop: Instruction) -> int | None:
        """From XLA's own analysis, or from a condition that compares a counter with a constant; None if neither."""
        config = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"\}')
        if config is not None:
            return int(config)
        condition = self._computations[loop.attribute(r"\bcondition=%?([\w.-]+)") or ""]
        compared = self._compared(condition)
        if compared is None:
            return None
        index, limit, includes_limit = compared
        start = _constant(call, loop.operands[0], index)
        return max(0, limit + includes_limit - (start or 0))

    def _compared(self, condition: Computation) -> tuple[int, int, bool] | None:
        """The loop variable's place in the tuple, the constant that bounds it, and whether the bound is included."""
        root, values = condition.root, condition.instructions
        operands = [values[name] for name in root.operands if name in values]
        if root.opcode == "fusion":
            root = self._computations[root.called[0]].root
        direction = root.attribute(r"direction=(LT|LE)")
        counters = [one for one in operands if one.opcode == "get-tuple-element"]
        limits = [one for one in operands if one.opcode == "constant"]
        if root.opcode != "compare" or not direction or len(counters) != 1 or len(limits) != 1:
            return None
        return int(counters[0].attribute(r"index=(\d+)") or 0), int(limits[0].operands[0]), direction == "LE"


def _constant(call: Call, name: str, index: int) -> int | None:
    """The number at a place of a tuple, if it is a constant."""
    value = call.computation.instructions[name]
    if value.opcode == "tuple":
        value = call.computation.instructions[value.operands[index]]
    while value.opcode in PASS_THROUGH:
        value = call.computation.instructions[value.operands[0]]
    return int(value.operands[0]) if value.opcode == "constant" else None


def outside_fusions(call: Call) -> Call:
    """Where a fused computation runs."""
    while call.site is not None and call.site.opcode == "fusion" and call.caller is not None:
        call = call.caller
    return call

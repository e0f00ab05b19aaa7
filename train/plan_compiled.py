"""The one place where a plan asks the compiler: its best candidates are compiled, and ranked by what that says."""

import dataclasses
from collections.abc import Callable
from typing import Any

from parallel import Machine, links_of

from .candidates import Candidate
from .compile import compile_step
from .compiled import Reading, seconds_by_axis
from .device_memory import CompiledMemory
from .memory import Memory
from .plan_text import describe
from .planning import Plan, with_overrides
from .step_time import StepTime
from .words import gib

# Where none of those asked for fits, up to so many times as many are compiled.
TIMES = 3
# On paper, what needs more than this many times the memory that there is will not fit by the compiler's word either.
HOPELESS = 1.5


def compile_best(config: Any, plan: Plan, count: int, *, log: Callable[[str], None] = print) -> Plan:
    """Compiles the first candidates, puts what the compiler says in the place of the estimates, and ranks them anew.

    Those that the compiler fits come first, then what is only estimated, and what it does not fit comes last of all.

    Args:
        config: the whole config.
        plan: ranked on paper.
        count: how many are compiled; more, if none of them fits.
        log: called with a line for each.

    Raises:
        ValueError: the compiler is not installed, or the config is not for this machine.
    """
    compiled: list[Candidate] = []
    for one in plan.candidates[: TIMES * count]:
        enough = len(compiled) >= count and any(found.fits for found in compiled)
        if enough or one.memory.total > HOPELESS * plan.machine.chip.usable_bytes:
            break
        compiled.append(compile_candidate(config, one, plan.machine))
        log(f"compiled {said_of(compiled[-1])}")
    rest = plan.candidates[len(compiled) :]
    return dataclasses.replace(plan, candidates=tuple(sorted((*compiled, *rest), key=ranked)))


def ranked(one: Candidate) -> tuple[Any, ...]:
    """What a plan with compiled candidates is ranked by."""
    return (not one.fits, (one.reading is None) == one.fits, one.key)


def compile_candidate(config: Any, candidate: Candidate, machine: Machine) -> Candidate:
    """The candidate with the compiler's memory and bounds.

    Args:
        config: the whole config.
        candidate: what is to be compiled.
        machine: which need not be here.

    Raises:
        ValueError: the compiler is not installed, or the config is not for this machine.
    """
    reading = compile_step(with_overrides(config, candidate, machine), machine)
    return compiled_candidate(candidate, reading, config.mesh.slice_axes)


def compiled_candidate(candidate: Candidate, reading: Reading, slice_axes: str) -> Candidate:
    """The candidate with what a reading of it says."""
    time = candidate.time
    if not reading.memory.by_compiler:  # else it was not compiled to its end
        time = with_reading(time, reading, slice_axes)
    memory = memory_in_terms(reading.memory)
    return dataclasses.replace(candidate, memory=memory, time=time, fits=reading.memory.fits, reading=reading)


def memory_in_terms(said: CompiledMemory) -> Memory:
    """The compiler's memory as that on paper is given."""
    return Memory("compiled", {"state and batch": said.arguments, "temporaries": said.needed - said.arguments})


def with_reading(time: StepTime, reading: Reading, slice_axes: str) -> StepTime:
    """The bounds with the compiler's own: cycles of its operations, and the bytes that its collectives move.

    A compiler that estimates no cycles, as those for GPUs and CPUs, changes the network's part only.
    """
    by_axis = seconds_by_axis(reading, links_of(reading.machine, reading.mesh, slice_axes))
    time = dataclasses.replace(time, network=sum(by_axis.values()), by_axis=by_axis)
    if not reading.has_cycles:
        return time
    return dataclasses.replace(
        time,
        compute=reading.compute_s,
        memory=min(time.hbm, reading.compute_s),  # is in the cycles
        alone=0.0,  # so is this
        waiting=0.0,  # and so are the ticks in which a stage computes what is dropped
    )


def said_of(one: Candidate) -> str:
    """A compiled candidate in a line."""
    assert one.reading, "it is not compiled"
    memory, seconds = one.reading.memory, one.reading.compile_s
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    return f"{describe(one)} in {seconds:.0f} s: {verdict}, {gib(memory.needed)} of {gib(memory.available)}"

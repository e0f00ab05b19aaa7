"""Pipeline schedules as tables: which stage does what for which microbatch, tick by tick.

The stages of one SPMD program advance together, so a tick may hold, for each stage, one forward (F), one backward (B)
and one weight-gradient (W) action, in this order. A tick costs what its kinds cost: a stage that has nothing to do in
it waits. What a stage works on arrives in the tick before, from its neighbour.

With C chunks a stage holds C pieces of the model: chunk c of stage s is piece c * S + s of C * S.

Letters: S stages, M microbatches, C chunks of a stage.
"""

import dataclasses
import functools
from collections.abc import Mapping
from itertools import groupby

import numpy as np

KINDS = ("F", "B", "W")
ENDS = ("enter", "leave", "exit")  # of the pipeline: see `tables`
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero_bubble")


@dataclasses.dataclass(frozen=True)
class Action:
    """One cell of a table.

    Attributes:
        tick: when.
        stage: who.
        kind: "F" forward, "B" backward, "W" gradient of the weights; without any "W" it is part of "B".
        chunk: which of the stage's pieces of the model.
        microbatch: on which rows.
    """

    tick: int
    stage: int
    kind: str
    chunk: int
    microbatch: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A table of actions; see `make_schedule`."""

    num_stages: int
    num_microbatches: int
    num_chunks: int
    actions: tuple[Action, ...]

    @property
    def num_ticks(self) -> int:
        """Length of the table."""
        return 1 + max(action.tick for action in self.actions)

    @property
    def splits_backward(self) -> bool:
        """Whether the gradients of the weights have ticks of their own."""
        return any(action.kind == "W" for action in self.actions)

    def when(self, kind: str) -> dict[tuple[int, int, int], int]:
        """The tick of each (stage, chunk, microbatch) of a kind."""
        return {(a.stage, a.chunk, a.microbatch): a.tick for a in self.actions if a.kind == kind}

    def kinds(self, tick: int) -> str:
        """The kinds that any stage does in a tick, such as "FB"."""
        there = {action.kind for action in self.actions if action.tick == tick}
        return "".join(kind for kind in KINDS if kind in there)

    def phases(self) -> list[tuple[str, range]]:
        """Successive ticks of the same kinds: the kinds, and those ticks."""
        phases = []
        for kinds, ticks in groupby(range(self.num_ticks), self.kinds):
            span = list(ticks)
            phases.append((kinds, range(span[0], span[-1] + 1)))
        return phases

    def bubble_fraction(self, *, forward: float = 1.0, backward: float = 2.0, weight: float = 1.0) -> float:
        """The share of the time in which a stage waits.

        Args:
            forward: cost of a piece's forward pass.
            backward: cost of the gradient of its input; by default with the forward pass that is computed again.
            weight: cost of the gradients of its weights, a part of B without any W.
        """
        cost = {"F": forward, "B": backward if self.splits_backward else backward + weight, "W": weight}
        time = sum(cost[kind] for tick in range(self.num_ticks) for kind in self.kinds(tick))
        return 1 - sum(cost[action.kind] for action in self.actions) / self.num_stages / time

    def peak_live(self, stage: int, first: str = "F", last: str = "B") -> int:
        """How many microbatches of a stage are between two kinds of action at most, both ticks included.

        Between F and B a stage keeps their inputs, between B and W what the weights' gradients need.
        """
        start, end = self.when(first), self.when(last)
        live = np.zeros(self.num_ticks + 1, int)
        for key in start:
            if key[0] == stage:
                live[start[key]] += 1
                live[end[key] + 1] -= 1
        return int(live.cumsum().max())


@functools.lru_cache(maxsize=64)
def make_schedule(name: str, *, num_stages: int, num_microbatches: int, num_chunks: int = 1) -> Schedule:
    """Builds the table of a schedule.

    With costs f, b and w of forward, backward and weights' gradients of a piece, a stage works for CM(f+b+w), and

        name         waits for     keeps inputs of at most      source
        gpipe        (S-1)(f+b+w)  M                            Huang et al. 2019, arXiv:1811.06965
        1f1b         (S-1)(f+b+w)  min(M, 2(S-s)-1)             Narayanan et al. 2019, doi:10.1145/3341301.3359646
        interleaved  (S-1)(f+b+w)  min(CM, 2(S-s)-1 + (C-1)S)   Narayanan et al. 2021, arXiv:2104.04473, section 2.2
        zero_bubble  (S-1)(f+b)    as these; s+1 between B, W   Qi et al. 2023, arXiv:2401.10241

    The time that the first three wait is the published one. 1f1b keeps up to 2(S-s)-1 inputs where stages that run on
    their own keep S-s, because here a tick has a forward and a backward. For the same reason zero_bubble, in which all
    stages do the weights' gradients of a microbatch in one tick, waits for (S-1)(f+b) where Qi et al. wait for
    (S-1)(f+b-w); but it can be interleaved as well, and so wait for less.

    Args:
        name: one of `SCHEDULES`.
        num_stages: S.
        num_microbatches: M.
        num_chunks: C, for "interleaved" and "zero_bubble".

    Returns:
        The table, its actions in the order of their ticks.

    Raises:
        ValueError: an unknown name, or numbers that do not fit it.
    """
    S, M, C = num_stages, num_microbatches, num_chunks
    if name not in SCHEDULES:
        raise ValueError(f"config.mesh.schedule={name!r} is not known; use one of {', '.join(SCHEDULES)}")
    if C < 1 or (name == "interleaved") > (C > 1) or (C > 1 and name in ("gpipe", "1f1b")):
        legal = {"interleaved": "2 or more", "zero_bubble": "1 or more"}.get(name, "1")
        raise ValueError(f"config.mesh.schedule={name!r} does not suit chunks={C}; use {legal}")
    if C > 1 and M % S:
        raise ValueError(
            f"config.mesh.schedule={name!r} with chunks={C} takes microbatches in groups of config.mesh.stage={S}, but "
            f"a step has {M}; choose config.train.microbatch_rows so that it has {max(1, round(M / S)) * S}"
        )
    actions = []
    first_backward = M + S - 1 if name == "gpipe" else C * S - 1
    for m in range(M):
        group, place = divmod(m, S) if C > 1 else (0, m)
        for c in range(C):
            forward = group * S * C + c * S + place
            backward = first_backward + group * S * C + (C - 1 - c) * S + place
            for s in range(S):
                actions.append(Action(forward + s, s, "F", c, m))
                actions.append(Action(backward + S - 1 - s, s, "B", c, m))
                if name == "zero_bubble":  # all stages in the tick in which the first one can
                    actions.append(Action(backward + S - 1, s, "W", c, m))
    return Schedule(S, M, C, tuple(sorted(actions, key=lambda a: (a.tick, KINDS.index(a.kind), a.stage))))


def check_schedule(schedule: Schedule) -> None:
    """Checks that a table does everything once and nothing before its inputs are there.

    Raises:
        AssertionError: it does not.
    """
    S, C = schedule.num_stages, schedule.num_chunks
    cells = [(a.tick, a.stage, a.kind) for a in schedule.actions]
    assert len(set(cells)) == len(cells), "a stage does two actions of a kind in one tick"
    work = {(s, c, m) for s in range(S) for c in range(C) for m in range(schedule.num_microbatches)}
    forward, backward, weight = (schedule.when(kind) for kind in KINDS)
    assert set(forward) == work, "an F is left out"
    assert set(backward) == work, "a B is left out"
    assert set(weight) in (work, set()), "a W is left out"
    for (s, c, m), tick in forward.items():
        piece = c * S + s
        if piece:
            previous = forward[(piece - 1) % S, (piece - 1) // S, m]
            assert tick == previous + 1, f"F of microbatch {m} in piece {piece} is not just after its input"
            assert backward[(piece - 1) % S, (piece - 1) // S, m] == backward[s, c, m] + 1, (
                f"B of microbatch {m} in piece {piece - 1} is not just after its gradient"
            )
        assert backward[s, c, m] >= tick, f"B of microbatch {m} in piece {piece} is before its F"
        assert weight.get((s, c, m), backward[s, c, m]) >= backward[s, c, m], f"W of {(s, c, m)} is before its B"


def tables(schedule: Schedule) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """A schedule as arrays (tick, stage) that a compiled loop can read.

    Returns:
        "F_microbatch", "F_chunk", "F_slot" and so on for each kind; microbatch is -1 where a stage waits. A slot is
        where a stage keeps what it must remember: from F to B, and under "B_weight_slot" and "W_slot" from B to W.
        "enter", "leave" and "exit" (tick,) are the microbatches that go into the first piece, and that come out of the
        last one's F and the first one's B. Then the number of slots that B and W need.
    """
    shape = (schedule.num_ticks, schedule.num_stages)
    names = [f"{kind}_{what}" for kind in KINDS for what in ("microbatch", "chunk", "slot")]
    arrays: dict[str, np.ndarray] = {name: np.zeros(shape, np.int32) for name in [*names, "B_weight_slot"]}
    for kind in KINDS:
        arrays[f"{kind}_microbatch"] -= 1
    for name in ENDS:
        arrays[name] = np.full(schedule.num_ticks, -1, np.int32)
    ends = {("F", 0): "enter", ("B", schedule.num_stages * schedule.num_chunks - 1): "leave", ("B", 0): "exit"}
    for action in schedule.actions:
        piece = action.chunk * schedule.num_stages + action.stage
        if name := ends.get((action.kind, piece)):
            arrays[name][action.tick] = action.microbatch
    num_slots = {}
    for first, last in (("F", "B"), ("B", "W")):
        slots, num_slots[last] = _slots(schedule, schedule.when(first), schedule.when(last))
        for action in schedule.actions:
            key, at = (action.stage, action.chunk, action.microbatch), (action.tick, action.stage)
            arrays[f"{action.kind}_microbatch"][at] = action.microbatch
            arrays[f"{action.kind}_chunk"][at] = action.chunk
            if action.kind in (first, last) and key in slots:
                name = "B_weight_slot" if (first, action.kind) == ("B", "B") else f"{action.kind}_slot"
                arrays[name][at] = slots[key]
    return arrays, num_slots


def _slots(
    schedule: Schedule, start: Mapping[tuple[int, int, int], int], end: Mapping[tuple[int, int, int], int]
) -> tuple[dict[tuple[int, int, int], int], int]:
    """Gives each interval the lowest slot that is free on its stage, and counts the slots."""
    slots: dict[tuple[int, int, int], int] = {}
    for stage in range(schedule.num_stages):
        busy_until: list[int] = []
        for key in sorted((key for key in end if key[0] == stage), key=lambda key: start[key]):
            free = [i for i, tick in enumerate(busy_until) if tick < start[key]]
            slots[key] = free[0] if free else len(busy_until)
            busy_until[slots[key] : slots[key] + 1] = [end[key]]
    return slots, 1 + max(slots.values(), default=-1)

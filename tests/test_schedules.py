"""Pipeline schedules as tables: literal tables, dependencies, and waiting and memory by their published formulas."""

import dataclasses

import pytest

from parallel.schedules import KINDS, Schedule, check_schedule, make_schedule, tables

# (name, chunks): the formulas below hold for each of them.
NAMES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 4), ("zero_bubble", 1), ("zero_bubble", 2)]
SIZES = [(1, 4), (2, 2), (2, 8), (3, 6), (4, 4), (4, 16), (8, 16)]
CASES = [(name, C, S, M) for name, C in NAMES for S, M in SIZES if M % S == 0]


def make(name: str, C: int, S: int, M: int) -> Schedule:
    return make_schedule(name, num_stages=S, num_microbatches=M, num_chunks=C)


def drawn(schedule: Schedule) -> list[str]:
    """A line for each stage: what it does in each tick, a chunk other than 0 with its number before."""
    lines = []
    for stage in range(schedule.num_stages):
        cells = []
        for tick in range(schedule.num_ticks):
            there = [a for a in schedule.actions if (a.stage, a.tick) == (stage, tick)]
            text = "".join(f"{a.kind}{a.chunk or ''}{'.' if a.chunk else ''}{a.microbatch}" for a in there)
            cells.append(text or "-")
        lines.append(" ".join(cells))
    return lines


def test_gpipe_drawn():
    assert drawn(make("gpipe", 1, 2, 3)) == ["F0 F1 F2 - - B0 B1 B2", "- F0 F1 F2 B0 B1 B2 -"]


def test_1f1b_drawn():
    assert drawn(make("1f1b", 1, 3, 4)) == [
        "F0 F1 F2 F3 B0 B1 B2 B3",
        "- F0 F1 F2B0 F3B1 B2 B3 -",
        "- - F0B0 F1B1 F2B2 F3B3 - -",
    ]


def test_interleaved_drawn():
    assert drawn(make("interleaved", 2, 2, 2)) == [
        "F0 F1 F1.0 F1.1 B1.0 B1.1 B0 B1",
        "- F0 F1 F1.0B1.0 F1.1B1.1 B0 B1 -",
    ]


def test_zero_bubble_drawn():
    assert drawn(make("zero_bubble", 1, 2, 3)) == ["F0 F1 F2B0W0 B1W1 B2W2", "- F0B0 F1B1W0 F2B2W1 W2"]


@pytest.mark.parametrize(("name", "C", "S", "M"), CASES)
def test_everything_is_done_once_and_just_after_its_input(name, C, S, M):
    check_schedule(make(name, C, S, M))


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_finds_an_action_too_early_and_one_left_out(kind):
    schedule = make("zero_bubble", 1, 2, 4)
    moved = [dataclasses.replace(a, tick=a.tick - 3) if (a.kind, a.stage) == (kind, 1) else a for a in schedule.actions]
    missing = [a for a in schedule.actions if (a.kind, a.stage, a.microbatch) != (kind, 1, 2)]
    for actions in (moved, missing):
        with pytest.raises(AssertionError):
            check_schedule(dataclasses.replace(schedule, actions=tuple(actions)))


@pytest.mark.parametrize(("name", "C", "S", "M"), CASES)
@pytest.mark.parametrize(("f", "b", "w"), [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_bubble_fraction(name, C, S, M, f, b, w):
    waiting = (S - 1) * (f + b if name == "zero_bubble" else f + b + w)
    fraction = make(name, C, S, M).bubble_fraction(forward=f, backward=b, weight=w)
    assert fraction == pytest.approx(waiting / (C * M * (f + b + w) + waiting))
    if name != "zero_bubble":
        assert fraction == pytest.approx((S - 1) / (C * M + S - 1))


@pytest.mark.parametrize(("name", "C", "S", "M"), CASES)
def test_peak_of_live_microbatches(name, C, S, M):
    schedule = make(name, C, S, M)
    expected = [M if name == "gpipe" else min(C * M, 2 * (S - s) - 1 + (C - 1) * S) for s in range(S)]
    assert [schedule.peak_live(s) for s in range(S)] == expected
    if name == "zero_bubble":
        assert [schedule.peak_live(s, "B", "W") for s in range(S)] == [min(s + 1, C * M) for s in range(S)]


@pytest.mark.parametrize("M", [4, 16, 64])
def test_only_gpipe_keeps_more_with_more_microbatches(M):
    assert make("gpipe", 1, 4, M).peak_live(0) == M
    assert make("1f1b", 1, 4, M).peak_live(0) == min(M, 7)
    assert make("interleaved", 2, 4, M).peak_live(0) == min(2 * M, 11)


@pytest.mark.parametrize(("name", "C", "S", "M"), CASES)
def test_slots_are_as_many_as_the_peak_and_never_shared(name, C, S, M):
    schedule = make(name, C, S, M)
    arrays, num_slots = tables(schedule)
    assert num_slots["B"] == max(schedule.peak_live(s) for s in range(S))
    held: dict[tuple[int, int], int] = {}
    for tick in range(schedule.num_ticks):
        for s in range(S):
            work = arrays["F_microbatch"][tick, s] * C + arrays["F_chunk"][tick, s]
            if arrays["F_microbatch"][tick, s] >= 0:
                assert held.setdefault((s, arrays["F_slot"][tick, s]), work) == work
            if arrays["B_microbatch"][tick, s] >= 0:
                work = arrays["B_microbatch"][tick, s] * C + arrays["B_chunk"][tick, s]
                assert held.pop((s, arrays["B_slot"][tick, s])) == work
    assert held == {}


@pytest.mark.parametrize(
    ("name", "C", "M", "said"),
    [
        ("fifo", 1, 4, ["config.mesh.schedule='fifo'", "gpipe, 1f1b, interleaved, zero_bubble"]),
        ("interleaved", 1, 4, ["config.mesh.schedule='interleaved'", "chunks=1", "2 or more"]),
        ("1f1b", 2, 4, ["chunks=2", "1f1b", "use 1"]),
        ("interleaved", 2, 6, ["config.mesh.stage=4", "has 6", "config.train.microbatch_rows", "has 8"]),
        ("zero_bubble", 0, 4, ["chunks=0", "1 or more"]),
    ],
)
def test_what_does_not_fit_names_the_keys(name, C, M, said):
    with pytest.raises(ValueError, match="config") as error:
        make(name, C, 4, M)
    for part in said:
        assert part in str(error.value)

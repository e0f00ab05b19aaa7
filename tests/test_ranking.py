"""The benchmark of the ranking: what it keeps of a compiled step, and what it makes of literal rows."""

import dataclasses
from typing import Any

import pytest

from parallel import parse_machine
from tests.bench import ranking
from tests.bench.ranking import Case, figures, markdown, rank, raw, reading_of, verdict
from tests.test_compiled import small
from tests.test_plan import medium
from tests.test_plan_compiled import gigabytes, reading
from train.plan_compiled import compiled_candidate
from train.planning import make_plan


def test_what_is_kept_of_a_reading_gives_the_same_candidate():
    machine = parse_machine("v5e:2x4")
    one = make_plan(medium(), machine, mesh={"data": 4, "fsdp": 2}).best
    moved = (gigabytes("all-gather", "fsdp"), gigabytes("all-reduce", "data"))
    full = dataclasses.replace(reading(machine, one.layout.sizes, needed=3), attention_s=0.5, collectives=moved)
    told = compiled_candidate(one, full, "data")
    again = compiled_candidate(one, reading_of(raw(full), machine, one.layout), "data")
    assert figures(again) == figures(told)
    assert told.time.compute == pytest.approx(1.5)


def test_a_case_is_ranked_and_what_is_kept_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranking, "small", lambda changes: small())
    kept: list[dict[str, Any]] = []
    case = Case("cpu:2", 1, {}, "it compiles here")
    row = rank("a", case, {}, kept.append)
    assert len(kept) == row["num_candidates"] == len(row["candidates"]) > 1
    assert all(one["compiled"]["fits"] for one in row["candidates"])
    monkeypatch.setattr(ranking, "compile_step", lambda *arguments: pytest.fail("compiled again"))
    assert rank("a", case, row, kept.append) == row
    assert "| a | cpu:2 |" in markdown([row])


def test_the_verdict_passes_over_what_does_not_fit():
    def one(fits: bool, seconds: float) -> dict[str, Any]:
        return {"compiled": {"fits": fits, "seconds": seconds}}

    row = {"candidates": [one(False, 1.0), one(True, 2.2), one(True, 2.0)]}
    best, slower = verdict(row)
    assert best == 2
    assert slower == pytest.approx(0.1)

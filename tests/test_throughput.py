"""What the race of tests/bench/throughput.py makes of its figures."""

import pytest

from tests.bench.peers.turns import Worker, take_turns
from tests.bench.throughput import COMPILED, OURS, check_losses, check_ratio, ratio

COUNTS = """
from tests.bench.peers.turns import Peer, serve
serve(lambda by: Peer(lambda steps: by * steps, lambda: by / 2), {"device": "none"})
"""


def test_the_share_is_the_median_over_rounds_that_both_had():
    rows = [{"who": OURS, "seconds": [2.0, 4.0, 8.0]}, {"who": COMPILED, "seconds": [1.0, 3.0, 2.0]}]
    assert ratio(rows) == 0.5


def test_a_share_that_shrank_by_more_than_a_tenth_fails():
    check_ratio(0.91, 1.0)
    with pytest.raises(ValueError, match=r"0\.89, and 1\.00 on record"):
        check_ratio(0.89, 1.0)


def test_who_computes_something_else_is_not_compared():
    check_losses({OURS: [8.0, 7.0], COMPILED: [8.0001, 7.0001]}, 1e-4)
    with pytest.raises(ValueError, match="they do not do the same"):
        check_losses({OURS: [8.0, 7.0], COMPILED: [8.0, 7.1]}, 1e-4)


def test_workers_take_turns():
    program = ["-c", COUNTS]
    with Worker(program, by=0.5) as one, Worker(program, by=3) as other:
        assert (one.about["losses"], other.about["losses"]) == ([0.5, 4.5], [3, 27])
        assert one.about["device"] == "none"
        seconds = take_turns({"one": one, "other": other}, steps=2, rounds=3)
        assert (one.valid(), other.valid()) == (0.25, 1.5)
    assert [len(found) for found in seconds.values()] == [3, 3]


def test_a_worker_that_fails_says_so():
    with pytest.raises(RuntimeError, match="ended with status 3"):
        Worker(["-c", "raise SystemExit(3)"])

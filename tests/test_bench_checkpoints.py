"""What the benchmark of checkpoints makes of the lines of a run."""

import pytest

from tests.bench.checkpoints import cost_of_saving


def test_the_cost_of_a_save_is_what_it_held_up_and_the_steps_after_it():
    """Steps of 0.1 s; saves that hold up 0.05 s and make the ten steps after them a tenth slower."""
    lines = [{"step_time": 9.0, "checkpoint_stall": 0.0}]  # warms up
    for _ in range(3):
        lines += [{"step_time": 0.1, "checkpoint_stall": 0.0}] * 9
        lines += [{"step_time": 0.11 + 0.05 / 10, "checkpoint_stall": 0.05}]
    found = cost_of_saving(lines)
    assert found == pytest.approx({"stall": 0.05, "step": 0.1, "share": 0.05 / 10, "after": 1.1})

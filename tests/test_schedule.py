"""Learning rates as literal tables: warmup counts updates, and the last update is the one that ends the decay."""

import pytest
from ml_collections import ConfigDict

from train.schedule import make_schedule

# Ten updates, two of them warmup, peak 1, final fraction 0.1.
TABLES = {
    "constant": [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    # 8 updates after the warmup, the first at 1 and the last at 0.1: a step of 0.9 / 7.
    "linear": [0.5, 1, 1, 0.871429, 0.742857, 0.614286, 0.485714, 0.357143, 0.228571, 0.1],
    # 0.1 + 0.9 * (1 + cos(pi * i / 7)) / 2
    "cosine": [0.5, 1, 1, 0.955436, 0.830570, 0.650134, 0.449866, 0.269430, 0.144564, 0.1],
    # sqrt(2 / (2 + i))
    "inverse_sqrt": [0.5, 1, 1, 0.816497, 0.707107, 0.632456, 0.577350, 0.534522, 0.5, 0.471405],
    # The last 4 updates go down in steps of 0.9 / 4.
    "wsd,decay_steps=4": [0.5, 1, 1, 1, 1, 1, 0.775, 0.55, 0.325, 0.1],
}


def configure(config: ConfigDict, **optimizer) -> ConfigDict:
    config.train.steps = 10
    config.optimizer.warmup_steps = 2
    config.optimizer.update(optimizer)
    return config


@pytest.mark.parametrize("name", TABLES)
def test_schedule_equals_the_table(config: ConfigDict, name: str):
    schedule = make_schedule(configure(config, schedule=name), 1.0)
    assert [float(schedule(step)) for step in range(10)] == pytest.approx(TABLES[name], abs=1e-6)


def test_without_warmup_the_first_update_is_at_the_peak(config: ConfigDict):
    schedule = make_schedule(configure(config, schedule="linear", warmup_steps=0), 3.0)
    assert float(schedule(0)) == pytest.approx(3.0)
    assert float(schedule(9)) == pytest.approx(0.3)


def test_wsd_decays_over_a_fifth_by_default(config: ConfigDict):
    schedule = make_schedule(configure(config, schedule="wsd"), 1.0)
    assert [float(schedule(step)) for step in (7, 8, 9)] == pytest.approx([1, 0.55, 0.1])


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"schedule": "cosin"}, "'cosin' is not known; use one of constant, linear, cosine"),
        ({"warmup_steps": 10}, "config.optimizer.warmup_steps=10 must be 0 or more and below config.train.steps=10"),
        ({"schedule": "wsd,decay_steps=9"}, "schedule: decay_steps=9 does not fit.*use at most 8"),
        ({"schedule": "cosine,final_fraction=-1"}, "config.optimizer.schedule: final_fraction=-1.0 must be 0 or more"),
        ({"schedule": "constant,final_fraction=0"}, "'final_fraction' is no option of 'constant'; it has none"),
    ],
)
def test_what_does_not_fit_is_an_error(config: ConfigDict, optimizer: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_schedule(configure(config, **optimizer), 1.0)

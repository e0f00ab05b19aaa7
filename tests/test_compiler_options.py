"""Options of XLA's compilers: they reach what is compiled."""

import jax
import pytest

from parallel import compiler_options, shard_batch
from parallel.compiler_options import OPTIONS
from tests.helpers import one_device, uneven_batch
from tests.test_remat import small
from train import init_state, make_train_step


def test_a_cpu_has_none():
    assert compiler_options(one_device()) == {}


def test_the_step_is_compiled_with_those_of_its_platform(monkeypatch: pytest.MonkeyPatch):
    """One that XLA does not know is an error, so it has got it."""
    config, mesh = small(), one_device()
    state, batch = init_state(config, mesh), shard_batch(uneven_batch(config), mesh)
    monkeypatch.setitem(OPTIONS, "cpu", {"xla_no_such_option": 1})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        make_train_step(config, mesh)(state, batch)

"""Options of XLA's compilers: they reach what is compiled."""

import jax
import pytest

from configs import base
from parallel import compiler_options, parse_machine, shard_batch
from parallel.compiler_options import OPTIONS
from tests.helpers import one_device, uneven_batch
from tests.test_remat import small
from train import init_state, make_train_step
from train.compile import compile_step


def test_a_cpu_has_none():
    assert compiler_options(one_device()) == {}


def test_the_step_is_compiled_with_those_of_its_platform(monkeypatch: pytest.MonkeyPatch):
    """One that XLA does not know is an error, so it has got it."""
    config, mesh = small(), one_device()
    state, batch = init_state(config, mesh), shard_batch(uneven_batch(config), mesh)
    monkeypatch.setitem(OPTIONS, "cpu", {"xla_no_such_option": 1})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        make_train_step(config, mesh)(state, batch)


@pytest.mark.tpu
@pytest.mark.xdist_group("tpu")
def test_products_are_not_cut_in_pieces_that_wait_for_a_shard_each():
    """Without the option this step's gathered weights go round as collective-permutes."""
    config = base.get_config()
    config.model.update(num_layers=1, d_model=512, num_heads=4, num_kv_heads=4, d_mlp=2048, dtype="bfloat16")
    config.data.update(vocab_size=512, seq_len=256, batch_size=32)
    config.mesh.update(data=1, fsdp=4)
    reading = compile_step(config, parse_machine("v5e:2x2"))
    assert {kind for kind, _ in reading.totals} == {"all-gather", "all-reduce"}

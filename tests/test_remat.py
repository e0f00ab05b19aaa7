"""What a step keeps changes what it computes again, and nothing else: on a mesh, and with a part of it on the host."""

import pytest
from ml_collections import ConfigDict

from configs import base
from parallel import MeshConfig, make_mesh, shard_batch
from tests.helpers import one_device, uneven_batch
from train import init_state, make_train_step

NAMED = {
    "kept": "names,keep=qkv+attention_out+mlp_gate",
    "kept and offloaded": "names,keep=attention_out+mlp_in,offload=layer_input+qkv+attention_sum",
}


def losses(config: ConfigDict, mesh) -> list[float]:
    state, step, found = init_state(config, mesh), make_train_step(config, mesh), []
    for _ in range(3):
        state, metrics = step(state, shard_batch(uneven_batch(config), mesh))
        found.append(float(metrics["loss"]))
    return found


def small() -> ConfigDict:
    config = base.get_config()
    config.model.update(num_layers=3, d_model=32, num_heads=4, num_kv_heads=2, d_mlp=48, activation="swiglu")
    config.data.update(vocab_size=300, seq_len=32, batch_size=8)
    config.optimizer.update(learning_rate=0.01, warmup_steps=0)
    return config


@pytest.mark.parametrize("name", NAMED)
def test_a_step_on_a_mesh_is_that_of_one_device_that_keeps_everything(name: str):
    plain, config = small(), small()
    config.model.remat = NAMED[name]
    expected = losses(plain, one_device())
    assert expected[2] < expected[0]
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2, allow_idle=True))
    assert losses(config, mesh) == pytest.approx(expected, rel=1e-5)

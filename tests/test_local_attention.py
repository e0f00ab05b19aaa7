"""Attention of each device to its rows and heads is plain attention, alone and after the all-to-all.

The blocked form stands for a kernel, as it too finds by place what nobody sees.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from model import attention
from model.blocked import blocked_attention
from parallel import all_to_all_attention, make_rules, on_each_device, on_mesh, zigzag_order
from tests.test_context import B, T, mesh_of, output_and_gradients, packed_rows, random_arrays, relative
from train.compose import _placed_attention, attention_of, make_model, preflight

ONE = functools.partial(blocked_attention, block=16)
LOCAL = on_each_device(ONE)
OPTIONS = {"window": 20, "soft_cap": 3.0}


@functools.cache
def plain(num_kv_heads: int) -> list[np.ndarray]:
    """For four rows, which a mesh can divide."""
    return output_and_gradients(attention, rows(num_kv_heads), *(twice(x) for x in packed_rows()), **OPTIONS)


def rows(num_kv_heads: int) -> list[jax.Array]:
    return [jnp.concatenate((x, x[:1])) for x in random_arrays(num_kv_heads, jnp.float32)]


def twice(x: np.ndarray) -> np.ndarray:
    assert len(x) == B
    return np.concatenate((x, x[:1]))


@pytest.mark.parametrize("num_kv_heads", [4, 1])  # one kv head is repeated for the two shards of "tensor"
def test_rows_and_heads_on_each_device(num_kv_heads: int):
    def run(*arguments: Any) -> Any:
        return output_and_gradients(LOCAL, *arguments, in_order=True, **OPTIONS)

    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    found = on_mesh(run, mesh, make_rules())(rows(num_kv_heads), *(twice(x) for x in packed_rows()))
    assert relative(found, plain(num_kv_heads)) < 2e-6


def test_a_kernel_after_the_all_to_all_gets_tokens_in_order():
    fn = functools.partial(all_to_all_attention, attention_fn=LOCAL, by_place=True)
    order = zigzag_order(T, 2)

    def run(*arguments: Any) -> Any:
        return output_and_gradients(fn, *arguments, in_order=True, **OPTIONS)

    arrays, where = [x[:, order] for x in rows(4)], [twice(x)[:, order] for x in packed_rows()]
    found = on_mesh(run, mesh_of(fsdp=2, context=2, tensor=2), make_rules())(arrays, *where)
    assert relative([x[:, np.argsort(order)] for x in found], plain(4)) < 2e-6


def test_without_a_mesh_it_is_the_function_itself():
    found = output_and_gradients(LOCAL, rows(4), *(twice(x) for x in packed_rows()), in_order=True, **OPTIONS)
    assert relative(found, plain(4)) < 2e-6


def test_preflight_refuses_a_backend_that_cannot(config: ConfigDict):
    config.model.attention = "splash"
    with pytest.raises(ValueError, match=r"config\.model\.attention='splash' cannot be used: it runs on a tpu"):
        preflight(config, mesh_of(data=2))


def test_the_ring_has_an_attention_of_its_own(config: ConfigDict):
    mesh = mesh_of(context=2)
    for name in ("plain", "blocked"):
        config.model.attention = name
        with pytest.raises(ValueError, match=rf"'{name}' cannot be used where config\.mesh\.context=2 .* in a ring"):
            preflight(config, mesh)
    config.mesh.context_attention = "all_to_all"
    assert attention_of(config, mesh).kind == "blocked"
    config.model.attention, config.mesh.context_attention = "auto", "ring"
    assert attention_of(config, mesh).kind == "ring"


def test_an_image_has_no_documents_that_cudnn_would_need_an_array_for(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("train.compose.platform_of", lambda mesh: "gpu")
    monkeypatch.setattr("train.compose.compute_capability", lambda mesh: 9.0)
    config.model.update(dtype="bfloat16", architecture="encoder", classifier="first,classes=3")
    mesh = mesh_of(data=1)
    assert make_model(config, mesh).attention_fn is _placed_attention("cudnn", (), True, False)
    config.model.image = "patches,size=8,patch=4"
    assert make_model(config, mesh).attention_fn is _placed_attention("cudnn", (), False, False)


def test_a_prefix_that_is_read_both_ways_is_not_in_order(config: ConfigDict):
    """Blocked compares all its tokens then; see `tests/test_model_backends.py` for the kernels, which refuse."""
    config.data.update(task="prefix_lm", seq_len=128)
    assert attention_of(config, mesh_of(data=1)).kind == "blocked"

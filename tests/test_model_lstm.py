"""The LSTM against its equations in NumPy, in packed rows, and in generation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import Transformer, init_cache
from tests.test_model_transformer import PACKING, SEGMENT_IDS, TOKENS, build, changed_where

LSTM = {"block": "lstm", "position": "none", "tie_embeddings": False}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(params: Any, tokens: np.ndarray) -> np.ndarray:
    """Logits of one document, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["embedding"][tokens]
    for layer in range(2):
        w_x, w_h, bias = (p["layers"][name][layer] for name in ("w_x", "w_h", "b_gates"))
        h = c = np.zeros(x.shape[-1])
        outputs = []
        for x_t in x:
            i, f, g, o = np.einsum("d,dge->ge", x_t, w_x) + np.einsum("d,dge->ge", h, w_h) + bias
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        x = np.array(outputs)
    return x @ p["head"].T


def test_packed_documents_are_each_that_of_the_equations():
    _, params, apply = build(**LSTM)
    logits = np.asarray(apply(params, TOKENS, **PACKING))
    for row, document in ((0, 1), (0, 2), (1, 1), (1, 2)):
        here = SEGMENT_IDS[row] == document
        np.testing.assert_allclose(logits[row][here], reference(params, TOKENS[row][here]), atol=1e-4)


def test_a_changed_document_or_padding_leaves_the_others_bit_identical():
    _, params, apply = build(**LSTM)
    before = np.asarray(apply(params, TOKENS, **PACKING))
    for changed in (SEGMENT_IDS == 1, SEGMENT_IDS == 0):
        after = np.asarray(apply(params, changed_where(changed), **PACKING))
        np.testing.assert_array_equal(before[~changed], after[~changed])


def test_token_by_token_with_the_state_gives_the_logits_of_the_whole():
    config, params, apply = build(**LSTM)
    model, cache = Transformer(config), init_cache(config, 2, 12)
    whole = np.asarray(apply(params, TOKENS, **PACKING))
    step = jax.jit(functools.partial(_step, model))
    for i in range(12):
        logits, cache = step(params, cache, i)
        np.testing.assert_allclose(logits[:, 0], whole[:, i], atol=1e-5)


def _step(model: Transformer, params: Any, cache: Any, i: Any) -> Any:
    def at(array: Any) -> Any:
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(array), i, 1, axis=1)

    where = {name: at(array) for name, array in PACKING.items()}
    return model.apply({"params": params}, at(TOKENS), cache=cache, **where)


def test_the_forget_gate_begins_open():
    config, *_ = build(**LSTM)
    bias = Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]["layers"]["b_gates"]
    assert bias.unbox().tolist() == [[[0.0] * 32, [1.0] * 32, [0.0] * 32, [0.0] * 32]] * 2

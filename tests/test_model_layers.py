"""Norms, rotary positions, activations, soft cap and dropout against their formulas in NumPy float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layers import ACTIVATIONS, dropout, layer_norm, rms_norm, soft_cap
from model.rope import rope


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_rms_norm_of_a_literal_vector():
    # The mean square of (3, 4) is 12.5, and eps 12.5 makes it 25.
    np.testing.assert_allclose(rms_norm(jnp.array([3.0, 4.0]), eps=12.5), [0.6, 0.8], rtol=1e-6)
    scaled = rms_norm(jnp.array([3.0, 4.0]), jnp.array([10.0, -1.0]), eps=12.5)
    np.testing.assert_allclose(scaled, [6.0, -0.8], rtol=1e-6)


def test_layer_norm_of_a_literal_vector():
    # The mean of (1, 3, 5, 7) is 4 and the variance 5; eps 11 makes it 16.
    x, scale, bias = jnp.array([1.0, 3.0, 5.0, 7.0]), jnp.array([1.0, 1.0, 2.0, 4.0]), jnp.array([0.0, 1.0, 0.0, 0.5])
    np.testing.assert_allclose(layer_norm(x, scale, eps=11.0), [-0.75, -0.25, 0.5, 3.0], rtol=1e-6)
    np.testing.assert_allclose(layer_norm(x, scale, bias, eps=11.0), [-0.75, 0.75, 0.5, 3.5], rtol=1e-6)


def test_norms_follow_their_formulas_over_the_last_dim():
    x, scale, bias = normal(0, 2, 3, 16), normal(1, 16), normal(2, 16)
    y = np.asarray(x, np.float64)
    expected = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-3) * scale
    np.testing.assert_allclose(rms_norm(x, scale, eps=1e-3), expected, rtol=1e-5, atol=1e-6)
    expected = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-3) * scale + bias
    np.testing.assert_allclose(layer_norm(x, scale, bias, eps=1e-3), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_does_not_cancel_at_a_large_mean():
    # E[x^2] - E[x]^2 is 1e8 - 1e8 in float32, and has no correct digit.
    x = 10_000.0 + jnp.array([-1.0, 1.0, -1.0, 1.0])
    np.testing.assert_allclose(layer_norm(x, jnp.ones(4), eps=1e-6), [-1, 1, -1, 1], rtol=1e-5)


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_norms_have_no_default_eps(norm):
    with pytest.raises(TypeError, match="eps"):
        norm(jnp.ones(4), jnp.ones(4))


@pytest.mark.parametrize("norm", [rms_norm, layer_norm])
def test_norms_compute_in_float32_and_return_the_dtype_of_the_input(norm):
    x = jnp.array([300.0, 301.0, 302.0, 303.0], jnp.float16)  # a square overflows float16
    y = norm(x, jnp.ones(4), eps=1e-6)
    assert y.dtype == jnp.float16
    wide = np.array([300.0, 301.0, 302.0, 303.0]) - (301.5 if norm is layer_norm else 0)
    np.testing.assert_allclose(y, wide / np.sqrt((wide**2).mean()), rtol=1e-3)


def test_rope_turns_each_pair_by_position_times_frequency():
    # H = 4, theta = 100: pair (x0, x2) turns by the position, pair (x1, x3) by a tenth of it.
    x = jnp.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])[None, :, None]
    y = rope(x, jnp.array([[2, 3]]), theta=100.0)[0, :, 0]
    np.testing.assert_allclose(y[0], [math.cos(2), math.cos(0.2), math.sin(2), math.sin(0.2)], rtol=1e-5)
    np.testing.assert_allclose(y[1], [-math.sin(3), -math.sin(0.3), math.cos(3), math.cos(0.3)], rtol=1e-5)


def test_rope_leaves_position_zero_as_it_is():
    x = normal(3, 2, 3, 2, 8)
    np.testing.assert_array_equal(rope(x, jnp.zeros((2, 3), jnp.int32), theta=10_000.0), x)


def test_rope_makes_scores_depend_on_distance_only():
    q, k = normal(4, 1, 1, 1, 8), normal(5, 1, 1, 1, 8)

    def score(q_position: int, k_position: int) -> float:
        turned = (rope(x, jnp.array([[at]]), theta=100.0) for x, at in ((q, q_position), (k, k_position)))
        return float(np.vdot(*turned))

    assert score(7, 4) == pytest.approx(score(3, 0), abs=1e-5)
    assert score(103, 100) == pytest.approx(score(3, 0), abs=1e-4)
    assert abs(score(3, 0) - score(4, 0)) > 0.01


def test_rope_keeps_bfloat16_but_turns_in_float32():
    x = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    y = rope(x, jnp.array([[1001]]), theta=10_000.0)  # 1001 is 1000 in bfloat16
    assert y.dtype == jnp.bfloat16
    expected = [math.cos(1001) - math.sin(1001), math.cos(1001) + math.sin(1001)]
    np.testing.assert_allclose(y.astype(jnp.float32)[0, 0, 0], expected, rtol=1e-2)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: np.ndarray) -> np.ndarray:
    return x * np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


FORMULAS = {
    "relu": (relu, False),
    "gelu": (gelu_tanh, False),
    "gelu_exact": (gelu_erf, False),
    "squared_relu": (lambda x: np.maximum(x, 0) ** 2, False),
    "silu": (silu, False),
    "swiglu": (silu, True),
    "geglu": (gelu_tanh, True),
    "geglu_exact": (gelu_erf, True),
    "reglu": (relu, True),
}


def test_every_activation_has_a_formula_here():
    assert set(ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_follows_its_formula(name):
    formula, gated = FORMULAS[name]
    x = np.linspace(-6, 6, 49)
    np.testing.assert_allclose(ACTIVATIONS[name].fn(jnp.asarray(x, jnp.float32)), formula(x), rtol=1e-5, atol=1e-6)
    assert ACTIVATIONS[name].gated is gated


def test_gelu_is_the_tanh_form():
    # x * Phi(x), the form with the error function, is 1.954500 at 2.
    assert float(ACTIVATIONS["gelu"].fn(jnp.float32(2.0))) == pytest.approx(1.954598, abs=1e-6)


def test_soft_cap_bounds_and_zero_is_off():
    x = np.array([-1e6, -3.0, 0.0, 0.01, 3.0, 1e6], np.float32)
    expected = [-5, -5 * math.tanh(0.6), 0, 5 * math.tanh(0.002), 5 * math.tanh(0.6), 5]
    np.testing.assert_allclose(soft_cap(jnp.asarray(x), 5.0), expected, rtol=1e-6)
    np.testing.assert_array_equal(soft_cap(jnp.asarray(x), 0.0), x)


def token_keys(*shape: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), shape)


def test_dropout_zeroes_at_its_rate_and_scales_the_rest():
    y = np.asarray(dropout(jnp.full((4, 25, 1000), 3.0), 0.25, token_keys(4, 25)))
    assert set(np.unique(y)) == {0.0, 4.0}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.007)  # five standard deviations


@pytest.mark.parametrize(("rate", "keys"), [(0.5, None), (0.0, token_keys(6, 4))], ids=["no key", "no rate"])
def test_dropout_is_off_without_a_key_or_rate(rate, keys):
    x = normal(6, 4, 8)
    np.testing.assert_array_equal(dropout(x, rate, keys), x)


def test_dropout_keeps_bfloat16_and_stops_the_gradient_of_what_it_drops():
    x = jnp.ones((1, 2, 32), jnp.bfloat16)
    y, vjp = jax.vjp(lambda x: dropout(x, 0.5, token_keys(1, 2)), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(vjp(jnp.ones_like(y))[0].astype(jnp.float32), y.astype(jnp.float32))

"""Products with operands of 8 bits: what they round to, that all three are of a projection, and how far they are off.

Letters: B batch, T length, N heads, H head dim, D model.
"""

import functools
import sys
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import Transformer, scan_layers
from model.products import PRODUCTS, contract
from tests.helpers import random_model

each_kind = pytest.mark.parametrize("kind", PRODUCTS)
# Rounding to nearest of a number, relative to it, and relative to the largest of its vector, where numbers are below
# the least normal one. An int8 has 127 steps to each side; e4m3 has 3 bits of mantissa and subnormal steps of 2^-9
# up to 448, e5m2 2 bits and 2^-16 up to 57344.
INT8, E4M3, E5M2 = (0.0, 0.5 / 127), (2**-4, 2**-10 / 448), (2**-3, 2**-17 / 57344)
ERRORS = {"int8": (INT8, INT8), "float8": (E4M3, E5M2)}


def test_the_largest_number_of_a_vector_is_the_largest_of_int8():
    """It is kept as it is; 0.1 is 12.7 of 127 steps, rounded to 13."""
    x_TD, w_D1 = jnp.array([[1.0, 0.0], [-4.0, 0.0], [0.0, 0.5]]), jnp.array([[1.0], [0.1]])
    expected = [[1.0], [-4.0], [0.5 * 13 / 127]]
    np.testing.assert_allclose(contract(x_TD, w_D1, products="int8"), expected, rtol=1e-6)


def bound(a: np.ndarray, b: np.ndarray, errors: Any, subscripts: str, dims: tuple[Any, Any]) -> np.ndarray:
    """The most that a product can be off: the sum over |a| db + |b| da + da db."""
    off = [
        relative * np.abs(x) + absolute * np.abs(x).max(axis=dim, keepdims=True)
        for x, dim, (relative, absolute) in zip((a, b), dims, errors, strict=True)
    ]
    a, b = np.abs(a), np.abs(b)
    return np.sum([np.einsum(subscripts, *pair) for pair in ((a, off[1]), (off[0], b), tuple(off))], axis=0)


@each_kind
def test_forward_and_both_gradients_are_rounded_and_within_the_bound(kind: str):
    """Attention's output projection, which sums over two dims; float64 products of NumPy are the reference."""
    rng = np.random.default_rng(0)
    x_BTNH, w_NHD, dy_BTD = (rng.standard_normal(shape) for shape in ((2, 5, 3, 4), (3, 4, 6), (2, 5, 6)))
    arrays = (jnp.asarray(array, jnp.float32) for array in (x_BTNH, w_NHD, dy_BTD))
    x, w, dy = arrays
    y, pull_back = jax.vjp(lambda x, w: contract(x, w, num_dims=2, products=kind), x, w)
    forward, backward = ERRORS[kind]
    for got, subscripts, a, b, errors, dims in (
        (y, "BTNH,NHD->BTD", x_BTNH, w_NHD, (forward, forward), ((2, 3), (0, 1))),
        (pull_back(dy)[0], "BTD,NHD->BTNH", dy_BTD, w_NHD, (backward, forward), (2, 2)),
        (pull_back(dy)[1], "BTNH,BTD->NHD", x_BTNH, dy_BTD, (forward, backward), ((0, 1), (0, 1))),
    ):
        error = np.abs(np.asarray(got, np.float64) - np.einsum(subscripts, a, b))
        assert np.all(error <= bound(a, b, errors, subscripts, dims) + 1e-6)
        assert error.max() > 1e-3


@pytest.mark.parametrize("num_outputs", [6, 20])  # fewer and more numbers a token than the input has
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("num_dims", [1, 2])
def test_gradients_in_full_precision_are_those_of_jax(num_dims: int, *, transposed: bool, num_outputs: int):
    inputs, outputs = (12,) if num_dims == 1 else (3, 4), (2, num_outputs // 2)
    draw = np.random.default_rng(0).normal
    x, w = draw(size=(2, 5, *inputs)), draw(size=outputs + inputs if transposed else inputs + outputs)
    summed = range(w.ndim)[-num_dims:] if transposed else range(num_dims)

    def loss(way: Any) -> Any:
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(way(x, w))), (0, 1))(jnp.float32(x), jnp.float32(w))

    found = loss(functools.partial(contract, num_dims=num_dims, transposed=transposed))
    expected = loss(functools.partial(jnp.tensordot, axes=[list(range(x.ndim)[-num_dims:]), list(summed)]))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def dots(jaxpr: Any) -> Counter[tuple[str, str]]:
    """The dtypes of the operands of all products, in alphabetical order; those within loops and the like once."""
    found: Counter[tuple[str, str]] = Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            found[tuple(sorted(v.aval.dtype.name for v in eqn.invars))] += 1  # pyright: ignore[reportArgumentType]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += dots(inner) if hasattr(inner, "eqns") else Counter()
    return found


TOKENS = np.random.default_rng(1).integers(0, 40, size=(2, 16)).astype(np.int32)


@functools.cache
def loss_and_gradient(dtype: str, remat: str = "none") -> tuple[Any, Any]:
    """The jaxpr and the values of the mean square of the logits; its random parameters make layers matter."""
    _, params = random_model(d_model=32, d_mlp=64, activation="swiglu")
    model, _ = random_model(d_model=32, d_mlp=64, activation="swiglu", dtype=dtype)
    model = Transformer(model.config, stack_fn=functools.partial(scan_layers, remat=remat))
    params = jax.tree.map(lambda leaf: 0.35 * leaf, params)

    def loss(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(model.apply({"params": params}, TOKENS)))

    return jax.make_jaxpr(jax.value_and_grad(loss))(params), jax.device_get(jax.jit(jax.value_and_grad(loss))(params))


@each_kind
@pytest.mark.parametrize("remat", ["none", "full"])
def test_all_products_of_projections_and_no_others_have_8_bits(kind: str, remat: str):
    """A layer has 7 projections, of which remat does all but the last again: 2 gradients each, and the forward pass."""
    found = dots(loss_and_gradient(f"bfloat16,products={kind}", remat)[0].jaxpr)
    forward, backward = (jnp.dtype(dtype).name for dtype in PRODUCTS[kind])
    again = 0 if remat == "none" else 6
    pairs = Counter([(forward, forward)] * (7 + again) + [tuple(sorted((backward, forward)))] * 14)
    others = Counter({pair: count for pair, count in found.items() if "8" not in "".join(pair)})
    assert found - others == pairs
    assert others.total() == 3 + 2 + 4 + (2 if again else 0)  # the head; attention's two, four backward
    plain = dots(loss_and_gradient("bfloat16", remat)[0].jaxpr)
    assert plain.total() == found.total()
    assert "8" not in "".join(map("".join, plain)).replace("float", "")


def distance(tree: Any, reference: Any) -> float:
    """The norm of the difference over that of the reference."""
    flat, expected = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t)]) for t in (tree, reference))
    return float(np.linalg.norm(flat - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("kind", "of_a_product"), [("int8", 0.01), ("float8", 0.04)])
def test_loss_and_gradient_are_near_those_without(kind: str, of_a_product: float):
    """A product is off by 1% or 4% of its norm, and a gradient passes about 14 of them whose errors are independent."""
    loss, gradient = loss_and_gradient(f"bfloat16,products={kind}")[1]
    plain_loss, plain_gradient = loss_and_gradient("bfloat16")[1]
    assert loss == pytest.approx(plain_loss, rel=of_a_product)
    error = distance(gradient["layers"], plain_gradient["layers"])
    assert of_a_product < error < 1.5 * of_a_product * 14**0.5
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype("float32")}


@each_kind
def test_remat_rounds_alike(kind: str):
    kept, again = (loss_and_gradient(f"float32,products={kind}", remat)[1] for remat in ("none", "full"))
    assert kept[0] == pytest.approx(again[0], rel=1e-6)
    assert distance(again[1], kept[1]) < 1e-5


@each_kind
def test_a_token_does_not_feel_those_after_it_or_in_other_rows(kind: str):
    """A scale is of one token: with one for all, a rounding would tell of the others."""
    model, params = random_model(dtype=f"float32,products={kind}")
    other = TOKENS.copy()
    other[0, 9:], other[1] = 7, 11
    logits, others = (model.apply({"params": params}, tokens) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(logits[0, :9], others[0, :9])
    assert np.abs(logits[0, 9:] - others[0, 9:]).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dtype": "bfloat16,products=int4"}, ["model.dtype='bfloat16,products=int4'", "use one of int8, float8"]),
        ({"dtype": "bfloat16,product=int8"}, ["model.dtype='bfloat16,product=int8'", "products=..."]),
        ({"dtype": "int8"}, ["model.dtype='int8'", "float32, bfloat16"]),
        ({"num_experts": 4}, ["model.num_experts=4", "model.dtype='bfloat16'"]),
        ({"block": "lstm"}, ["model.block='lstm'", "model.dtype='bfloat16'"]),
    ],
)
def test_what_cannot_be_names_key_value_and_a_legal_choice(fields: dict[str, Any], said: list[str]):
    with pytest.raises(ValueError, match=r"^config\.model\.dtype=") as error:
        random_model(**({"dtype": "bfloat16,products=int8"} | fields))
    assert [part for part in said if part not in str(error.value)] == []


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ValueError, match=r"needs qwix: pip install 'palmette\[quantization\]'"):
        contract(jnp.ones((1, 1)), jnp.ones((1, 1)), products="int8")

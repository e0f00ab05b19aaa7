"""Products of activations with weights: in the compute dtype, or with operands of 8 bits, forward and backward.

Each vector that a product sums over has a scale, its largest magnitude over that of the type, and is divided by it and
rounded to the nearest value: forward, and for the gradient of the input, no token depends on another. Each of the three
products of a projection rounds its operands anew, as each sums over other dims: those of the input, of the output, and
of the tokens. Sums are int32, or float32 of float8; scales are float32.

Letters: T any dims of tokens, I dims of the input, O dims of the output.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# What `products` in config.model.dtype may say -> the types of activations and weights, and of gradients: float8 as
# Micikevicius et al. 2022 (arXiv:2209.05433, section 3) divide its bits between mantissa and exponent.
PRODUCTS = {"int8": (jnp.int8, jnp.int8), "float8": (jnp.float8_e4m3fn, jnp.float8_e5m2)}
# The library puts the largest number at 127.5, where the last bit of a quotient decides what it becomes; here, at 127.
_SCALES = {jnp.int8: f"absmax,{127.5 / 127}"}


def contract(
    x_TI: Array,
    w_IO: Array,
    *,
    num_dims: int = 1,
    products: str = "",
    dtype: Any = None,
    transposed: bool = False,
) -> Array:
    """The sum over the last dims of x and the first of w.

    Args:
        x_TI: (..., I), where I stands for `num_dims` dims.
        w_IO: (I, ...), in x's dtype.
        num_dims: how many are summed over.
        products: "" multiplies in x's dtype; else a key of `PRODUCTS`, whose types are those of the operands here and
            in the backward pass.
        dtype: of the sums; None is x's.
        transposed: whether w is (..., I), so that its last dims are summed over.

    Returns:
        (..., O) in `dtype`.

    Raises:
        ValueError: `products` needs a library that is not installed.
    """
    return _contract(x_TI, w_IO, _Form(num_dims, products, jnp.dtype(dtype or x_TI.dtype), transposed))


class _Form(NamedTuple):
    """What `contract` is asked for."""

    num_dims: int
    products: str
    dtype: Any
    transposed: bool

    def dims(self, w: Array) -> tuple[range, range]:
        """Which dims of w are inputs and which outputs."""
        dims, border = range(w.ndim), w.ndim - self.num_dims if self.transposed else self.num_dims
        return (dims[border:], dims[:border]) if self.transposed else (dims[:border], dims[border:])

    def types(self) -> tuple[Any, Any]:
        """Of activations and weights, and of gradients."""
        return PRODUCTS.get(self.products, (None, None))


def _sum(x_TI: Array, w_IO: Array, form: _Form) -> Array:
    inputs, _ = form.dims(w_IO)
    forward, _ = form.types()
    return _dot(x_TI, w_IO, (range(x_TI.ndim)[-form.num_dims :], inputs), (forward, forward), form.dtype)


def _keep(x_TI: Array, w_IO: Array, form: _Form) -> tuple[Array, Any]:
    return _sum(x_TI, w_IO, form), (x_TI, w_IO)


def _pull_back(form: _Form, kept: Any, dy_TO: Array) -> tuple[Array, Array]:
    (x_TI, w_IO), (forward, backward) = kept, form.types()
    inputs, outputs = form.dims(w_IO)
    tokens = range(x_TI.ndim - form.num_dims)
    dx_TI = _dot(dy_TO, w_IO, (range(len(tokens), dy_TO.ndim), outputs), (backward, forward), x_TI.dtype)
    # On a CPU the first operand of a sum over tokens is copied, transposed: let that be the smaller one.
    if x_TI.size <= dy_TO.size:
        dw, first = _dot(x_TI, dy_TO, (tokens, tokens), (forward, backward), w_IO.dtype), inputs
    else:
        dw, first = _dot(dy_TO, x_TI, (tokens, tokens), (backward, forward), w_IO.dtype), outputs
    return dx_TI, jnp.moveaxis(dw, range(len(first)), first)


_contract = jax.custom_vjp(_sum, nondiff_argnums=(2,))
_contract.defvjp(_keep, _pull_back)


def _dot(a: Array, b: Array, summed: tuple[range, range], types: tuple[Any, Any], dtype: Any) -> Array:
    """Sums over dims of a and b; with types, both rounded to them, with a scale for each place in their other dims."""
    if types == (None, None):
        sums = max(a.dtype, b.dtype, jnp.dtype(dtype), key=lambda one: one.itemsize)
        return jax.lax.dot_general(a, b, (summed, ((), ())), preferred_element_type=sums).astype(dtype)
    qwix = library()
    with jax.numpy_dtype_promotion("standard"):  # the library multiplies sums of one dtype by scales of another
        rounded = (
            qwix.quantize(
                x.astype(jnp.float32),
                dtype,
                channelwise_axes=[dim for dim in range(x.ndim) if dim not in dims],
                calibration_method=_SCALES.get(dtype, "absmax"),
            )
            for x, dims, dtype in zip((a, b), summed, types, strict=True)
        )
        y = qwix.dot_general(*rounded, (tuple(map(tuple, summed)), ((), ())))
    return y.astype(dtype)


def library() -> Any:
    """Qwix, of the extra [quantization].

    Raises:
        ValueError: it is not installed.
    """
    try:
        import qwix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"products=... of config.model.dtype needs qwix: pip install 'palmette[quantization]' ({error})"
        ) from error
    return qwix

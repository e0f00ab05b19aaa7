"""Each attention backend is held to the plain one, forward and gradients; and what a backend cannot do it refuses.

The TPU's kernel runs interpreted. cuDNN's has no stand-in on a CPU: XLA computes what it is told to.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from model import (
    Asked,
    Transformer,
    TransformerConfig,
    attention,
    attention_fn_of,
    choose_attention,
    scan_layers,
)
from model.attention import RelativeBias
from model.blocked import blocked_attention
from model.choice import Choice
from model.cudnn import cudnn_attention
from model.splash import splash_attention

N, H = 4, 16


# The largest error, by the root of the mean square.
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.08}


class Case(NamedTuple):
    """What is varied; see `tests/test_model_attention.py` for what the plain one is held to."""

    K: int = 4
    causal: bool = True
    window: int = 0
    soft_cap: float = 0.0
    scale: float = 0.0
    values: int = H
    dtype: str = "float32"
    bias: bool = False
    in_order: bool = True


CASES = {
    "mha": Case(),
    "gqa, window": Case(K=2, window=20),
    "mqa, soft cap": Case(K=1, soft_cap=1.5, scale=0.7),
    "all": Case(K=2, window=33, soft_cap=1.0, values=8),
    "both ways": Case(K=2, causal=False),
    "both ways, window": Case(causal=False, window=9),
    "bfloat16": Case(K=2, window=50, soft_cap=2.0, dtype="bfloat16"),
}
ONLY_BLOCKED = {
    "relative": Case(K=2, bias=True, soft_cap=2.0),
    "relative, both ways": Case(bias=True, causal=False),
    "out of order": Case(K=2, window=7, in_order=False),
}


def rows(T: int, in_order: bool) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segment ids of two rows: three documents; and two, then padding."""
    cuts = ([T // 3, T // 2], [T // 4, T - 5])
    segments = np.stack([1 + np.searchsorted(cut, np.arange(T), side="right") for cut in cuts])
    segments[1, T - 5 :] = 0
    starts = np.array([[np.flatnonzero(row == s)[0] for s in row] for row in segments])
    positions = np.arange(T) - starts
    if not in_order:
        order = np.random.default_rng(5).permutation(T)
        return positions[:, order], segments[:, order]
    return positions, segments


def unpacked_rows(T: int) -> tuple[np.ndarray, np.ndarray]:
    """As `rows`: a document, one and padding, and nothing but padding."""
    lengths = np.array([[T], [T - 5], [0]])
    return np.broadcast_to(np.arange(T), (3, T)), (np.arange(T) < lengths).astype(int)


def outputs(fn: Any, case: Case, T: int, packed: bool = True) -> Any:
    """The output and the gradients of q, k, v and the table of a bias; not packed, of the documents alone."""
    rng = np.random.default_rng(0)
    positions, segments = (jnp.asarray(x, jnp.int32) for x in (rows(T, case.in_order) if packed else unpacked_rows(T)))
    B = len(positions)
    shapes = ((B, T, N, H), (B, T, case.K, H), (B, T, case.K, case.values), (8, N))
    q, k, v, table = (jnp.asarray(rng.standard_normal(shape), case.dtype) for shape in shapes)
    weight = rng.standard_normal((B, T, N, case.values)).astype(np.float32)
    counts = jnp.ones_like(segments) if packed else segments
    weight = weight * counts[..., None, None].astype(jnp.float32)

    def loss(arrays: Any) -> Any:
        q, k, v, table = arrays
        y = fn(
            q,
            k,
            v,
            q_positions_BT=positions,
            kv_positions_BS=positions,
            q_segment_ids_BT=segments,
            kv_segment_ids_BS=segments,
            causal=case.causal,
            window=case.window,
            soft_cap=case.soft_cap,
            scale=case.scale,
            bias=RelativeBias(table, 7) if case.bias else None,
            in_order=case.in_order,
        )
        assert y.dtype == v.dtype
        y = y.astype(jnp.float32)
        return jnp.sum(y * weight), jnp.where(counts[..., None, None] > 0, y, 0)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))((q, k, v, table))


def check(fn: Any, case: Case, T: int, packed: bool = True) -> None:
    (_, expected), expected_grads = outputs(attention, case, T, packed)
    (value, found), grads = outputs(fn, case, T, packed)
    assert np.isfinite(value)  # though what is of no weight is not compared
    for x, y in zip((expected, *expected_grads), (found, *grads), strict=True):
        x, y = (np.asarray(z, np.float32) for z in (x, y))
        np.testing.assert_allclose(y, x, atol=TOLERANCE[case.dtype] * max(np.sqrt(np.mean(x * x)), 1e-3))


@pytest.fixture
def cudnn_by_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for cuDNN: it takes the shapes that cuDNN does in training, and leaves NaN where that writes nothing."""
    given = jax.nn.dot_product_attention

    def compute(q: Any, k: Any, v: Any, *, implementation: str, **how: Any) -> Any:
        assert implementation == "cudnn"
        assert q.shape[-1] == k.shape[-1] == v.shape[-1]
        assert q.shape[1] % 2 == k.shape[1] % 2 == 0
        if how["mask"] is not None:
            assert how["mask"].shape == (q.shape[0], 1, q.shape[1], k.shape[1])
            assert q.shape[1] % 128 == k.shape[1] % 128 == 0
        out, lengths = given(q, k, v, implementation="xla", **how), how["query_seq_lengths"]
        if lengths is None:
            return out
        is_written = (jnp.arange(q.shape[1]) < lengths[:, None]) & (how["key_value_seq_lengths"][:, None] > 0)
        return jnp.where(is_written[..., None, None], out, jnp.nan)

    monkeypatch.setattr(jax.nn, "dot_product_attention", compute)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(K=2, window=20),
        Case(K=1, scale=0.7, values=8),
        Case(K=2, values=24),
        Case(K=2, causal=False),
        Case(causal=False, window=9),
    ],
)
@pytest.mark.usefixtures("cudnn_by_xla")
def test_what_cudnn_is_told_is_plain(case: Case, packed: bool):
    """Of an odd length; and of rows that are padding alone, as the last ones of an evaluation are."""
    check(functools.partial(cudnn_attention, packed=packed), case, 197, packed)


@pytest.mark.parametrize("packed", [True, False])
def test_remat_that_keeps_the_attention_runs_cudnn_once(monkeypatch: pytest.MonkeyPatch, packed: bool):
    """Of an odd length, which JAX refuses where it comes to the kernel."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91100)
    ids = jnp.ones((1, 131), jnp.int32)
    names = ("q_positions_BT", "kv_positions_BS", "q_segment_ids_BT", "kv_segment_ids_BS")

    def layer(w_HH: Any, x_BTNH: Any, _: None) -> Any:
        q = jnp.einsum("BTNH,HG->BTNG", x_BTNH, w_HH)
        y = cudnn_attention(q, q, q, in_order=True, packed=packed, **dict.fromkeys(names, ids))
        return x_BTNH + jnp.einsum("BTNH,HG->BTNG", y, w_HH), None

    def runs(remat: str) -> int:
        def loss(w: Any, x: Any) -> Any:
            return jnp.sum(scan_layers([layer], w, x, None, remat=remat)[0].astype(jnp.float32))

        shapes = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((3, 64, 64), (1, 131, 2, 64)))
        jaxpr = jax.make_jaxpr(jax.grad(loss))(*shapes)
        return [eqn.primitive.name for eqn in _equations(jaxpr.jaxpr)].count("dot_product_attention_fwd_wrapper")

    assert {remat: runs(remat) for remat in ("none", "full", "attention", "projections")} == {
        "none": 1,
        "full": 2,
        "attention": 1,
        "projections": 1,
    }


@pytest.mark.parametrize(
    ("fn", "logarithms"),
    [(attention, 0), (blocked_attention, 1), (functools.partial(splash_attention, interpret=True), 1)],
    ids=["plain", "blocked", "splash"],
)
def test_remat_keeps_each_attention_s_output_once(fn: Any, logarithms: int):
    """Beside the input of the layer, and the logarithms of the softmax's denominators."""
    c = asked(length=128, dtype="float32", num_layers=3, num_heads=4, num_kv_heads=2, d_model=40, d_mlp=48).config
    model = Transformer(c, attention_fn=fn, stack_fn=functools.partial(scan_layers, remat="attention"))
    tokens = jnp.zeros((2, 128), jnp.int32)
    params = jax.eval_shape(Transformer(c).init, jax.random.key(0), tokens[:, :1])["params"]
    held = jax.eval_shape(lambda params: jax.vjp(lambda p: model.apply({"params": p}, tokens), params)[1], params)
    of_layers = [leaf for leaf in jax.tree.leaves(held) if leaf.ndim > 2 and leaf.shape[0] == 3 and 128 in leaf.shape]
    floats = sum(leaf.size for leaf in of_layers if leaf.dtype == jnp.float32)
    assert floats == 3 * 2 * 128 * (40 + 4 * c.size_of_head + 4 * logarithms)


@pytest.mark.parametrize("name", CASES | ONLY_BLOCKED)
def test_blocked_is_plain(name: str):
    check(functools.partial(blocked_attention, block=16), (CASES | ONLY_BLOCKED)[name], 56)  # the last block is short


@pytest.mark.parametrize("name", CASES)
def test_splash_is_plain(name: str):
    check(functools.partial(splash_attention, interpret=True, block=128), CASES[name], 250)  # padded to 256


def test_splash_in_one_backward_kernel_is_plain():
    check(functools.partial(splash_attention, interpret=True, block=256, fused_backward=True), CASES["all"], 256)


@pytest.mark.parametrize(
    ("fn", "T"),
    [(functools.partial(blocked_attention, block=16), 48), (functools.partial(splash_attention, interpret=True), 128)],
)
def test_a_decoder_sees_only_the_encoder_s_document_of_its_number(fn: Any, T: int):
    """Queries and keys of different lengths."""
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((1, T, 2, H), (1, 64, 1, H), (1, 64, 1, H))
    )
    of_queries, of_keys = jnp.asarray([[1] * 20 + [2] * (T - 20)]), jnp.asarray([[1] * 30 + [2] * 20 + [0] * 14])
    where = {"q_segment_ids_BT": of_queries, "kv_segment_ids_BS": of_keys, "causal": False}
    where |= {"q_positions_BT": jnp.zeros_like(of_queries), "kv_positions_BS": jnp.zeros_like(of_keys)}
    np.testing.assert_allclose(jax.jit(functools.partial(fn, **where))(q, k, v), attention(q, k, v, **where), atol=1e-5)


@pytest.mark.parametrize(
    "fn",
    [blocked_attention, functools.partial(splash_attention, interpret=True), cudnn_attention],
    ids=["blocked", "splash", "cudnn"],
)
@pytest.mark.usefixtures("cudnn_by_xla")
def test_a_document_that_sees_nothing_gives_the_values_of_others_no_gradients(fn: Any):
    """The third document of a decoder, of which the encoder has two."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((1, length, 2, H)), jnp.float32) for length in (128, 64, 64)]
    of_queries, of_keys = jnp.asarray([[1] * 60 + [2] * 40 + [3] * 28]), jnp.asarray([[1] * 40 + [2] * 24])
    where = {"q_segment_ids_BT": of_queries, "kv_segment_ids_BS": of_keys, "causal": False}
    where |= {"q_positions_BT": jnp.zeros_like(of_queries), "kv_positions_BS": jnp.zeros_like(of_keys)}

    @jax.jit
    def output_and_gradients(weight: Any) -> Any:
        y, pull_back = jax.vjp(lambda *qkv: fn(*qkv, **where), *arrays)
        return y, pull_back(jnp.broadcast_to(weight, y.shape))

    y, gradients = output_and_gradients(jnp.ones((1, 128, 1, 1)))
    _, of_two = output_and_gradients(jnp.ones((1, 128, 1, 1)).at[:, 100:].set(0.0))
    np.testing.assert_array_equal(y[:, 100:], 0.0)
    assert np.all(np.any(y[:, :100] != 0.0, axis=-1))
    jax.tree.map(lambda x, expected: np.testing.assert_allclose(x, expected, atol=1e-6), gradients, of_two)


def test_a_block_that_nobody_chose_is_at_most_1024_queries_wide():
    """Of 32 768 tokens, an eighth would have logits of 4096 by 32 768."""
    T = 32768
    q = jax.ShapeDtypeStruct((1, T, 1, 8), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, T), jnp.int32)

    def fn(q: Any, ids: Any) -> Any:
        names = ("q_positions_BT", "kv_positions_BS", "q_segment_ids_BT", "kv_segment_ids_BS")
        return blocked_attention(q, q, q, in_order=True, **dict.fromkeys(names, ids))

    sizes = [out.aval.size for eqn in _equations(jax.make_jaxpr(fn)(q, ids).jaxpr) for out in eqn.outvars]
    assert max(sizes) == 1024 * T


def test_blocked_computes_no_block_that_nobody_sees():
    case, T = Case(K=2, window=16), 64

    def widths(in_order: bool) -> set[int]:
        fn = functools.partial(blocked_attention, block=16)
        jaxpr = jax.make_jaxpr(lambda: outputs(fn, case._replace(in_order=in_order), T)[0][0])()
        shapes = {
            out.aval.shape
            for eqn in _equations(jaxpr.jaxpr)
            if eqn.primitive.name == "dot_general"
            for out in eqn.outvars
        }
        return {shape[-1] for shape in shapes if len(shape) == 5 and shape[-2] == 16 and shape[-1] != H}

    assert widths(in_order=True) == {31}
    assert widths(in_order=False) == {64}


def _equations(jaxpr: Any) -> Any:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def test_a_row_that_sees_nothing_gives_zeros_and_no_gradients():
    q = jnp.ones((1, 4, 1, 4))
    ones, twos = jnp.ones((1, 4), jnp.int32), jnp.full((1, 4), 2)
    where = {"q_positions_BT": ones, "kv_positions_BS": ones, "q_segment_ids_BT": ones, "kv_segment_ids_BS": twos}
    y, pull_back = jax.vjp(lambda *qkv: blocked_attention(*qkv, soft_cap=2.0, **where), q, q, q)
    for array in (y, *pull_back(y + 1.0)):
        np.testing.assert_array_equal(array, 0.0)


@pytest.mark.parametrize("fn", [splash_attention, cudnn_attention])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"in_order": False}, "these stand in another order, or in a cache"),
        ({"in_order": False, "causal": False, "window": 4}, "these stand in another order"),
        ({"in_order": True, "bias": RelativeBias(jnp.zeros((8, 1)), 7)}, "no .*bias of relative positions"),
    ],
)
def test_kernels_refuse_what_they_would_ignore(fn: Any, how: dict[str, Any], said: str):
    q, ids = jnp.zeros((1, 128, 1, 16), jnp.bfloat16), jnp.ones((1, 128), jnp.int32)
    where = {"q_positions_BT": ids, "kv_positions_BS": ids, "q_segment_ids_BT": ids, "kv_segment_ids_BS": ids}
    with pytest.raises(ValueError, match=said):
        fn(q, q, q, **where, **how)


@pytest.mark.parametrize(
    ("packed", "window", "causal", "expected"),
    [
        (False, 0, True, {"is_causal": True, "local_window_size": None, "lengths": [3, 1]}),
        (False, 2, True, {"is_causal": True, "local_window_size": (1, 0), "lengths": [3, 1]}),
        (True, 0, True, {"is_causal": True, "local_window_size": None, "mask": "1000 1100 1110 0001"}),
        (True, 2, True, {"is_causal": True, "local_window_size": None, "mask": "1000 1100 0110 0001"}),
        (False, 2, False, {"is_causal": False, "local_window_size": None, "mask": "1100 1110 0110 0001"}),
    ],
)
def test_what_cudnn_is_told(monkeypatch: pytest.MonkeyPatch, packed: bool, window: int, causal: bool, expected: Any):
    told: dict[str, Any] = {}
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **how: told.update(how, v=v) or v)
    q, v = jnp.zeros((2, 4, 2, 8), jnp.bfloat16), jnp.zeros((2, 4, 1, 4), jnp.bfloat16)
    at, ids = jnp.tile(jnp.arange(4), (2, 1)), jnp.asarray([[1, 1, 1, 0], [0, 0, 0, 0]])
    where = {"q_positions_BT": at, "kv_positions_BS": at, "q_segment_ids_BT": ids, "kv_segment_ids_BS": ids}
    y = cudnn_attention(q, q[:, :, :1], v, packed=packed, window=window, causal=causal, in_order=True, **where)
    assert y.shape == (2, 4, 1, 4)
    assert told["v"].shape[-1] == 8
    assert (told["implementation"], told["scale"]) == ("cudnn", 8**-0.5)
    for name in ("is_causal", "local_window_size"):
        assert told[name] == expected[name]
    if "mask" in expected:
        assert told["query_seq_lengths"] is None
        assert told["mask"].shape == (2, 1, 128, 128)
        assert not np.any(told["mask"][:, :, 4:])
        assert not np.any(told["mask"][..., 4:])
        found = np.asarray(told["mask"][0, 0, :4, :4]).astype(int)
        assert " ".join("".join(map(str, row)) for row in found) == expected["mask"]
    else:
        assert told["mask"] is None
        assert told["query_seq_lengths"].tolist() == told["key_value_seq_lengths"].tolist() == expected["lengths"]


def asked(platform: str = "cpu", length: int = 256, **more: Any) -> Asked:
    own = {name: more.pop(name) for name in list(more) if name in Asked._fields}
    defaults: Any = base.get_config().model
    fields = {name: defaults[name] for name in TransformerConfig.__dataclass_fields__ if name in defaults}
    fields |= {"vocab_size": 300, "max_length": length, "dtype": "bfloat16"} | more
    return Asked(TransformerConfig(**fields), platform, length, **own)


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (asked("cpu", 127), "plain"),
        (asked("cpu", 128), "blocked"),
        (asked("cpu", 128, architecture="encoder"), "blocked"),
        (asked("cpu", 1024), "blocked"),
        (asked("tpu", 1024), "splash"),
        (asked("tpu", 1024, attention_soft_cap=30.0, window=64, dtype="float32"), "splash"),
        (asked("tpu", 1024, position="relative"), "blocked"),
        (asked("tpu", 1000), "blocked"),
        (asked("tpu", 64), "plain"),
        (asked("tpu", 1024, in_order=False), "blocked"),
        (asked("tpu", 1024, in_order=False, architecture="encoder"), "splash"),
        (asked("gpu", 1000), "cudnn"),
        (asked("gpu", 1024, dtype="float32"), "blocked"),
        (asked("gpu", 1024, attention_soft_cap=30.0), "blocked"),
        (asked("gpu", 1024, head_dim=256), "cudnn"),
        (asked("gpu", 1024, head_dim=256, capability=8.0), "blocked"),
        (asked("gpu", 1024, capability=0.0), "blocked"),  # AMD's
    ],
)
def test_auto_takes_the_platform_s_own_where_it_can(what: Asked, kind: str):
    assert choose_attention("auto", what).kind == kind


@pytest.mark.parametrize(
    ("text", "what", "said"),
    [
        (
            "splash",
            asked("cpu"),
            "it runs on a tpu, and the mesh has devices of platform 'cpu'; use .* takes 'blocked'",
        ),
        ("cudnn", asked("tpu"), "it runs on a gpu, and the mesh has devices of platform 'tpu'; use .* takes 'splash'"),
        (
            "splash",
            asked("tpu", position="relative"),
            "no bias of relative positions, as config.model.position='relative'",
        ),
        ("splash", asked("tpu", in_order=False), "config.data.task a prefix sees itself whole"),
        ("splash", asked("tpu", 200), "config.data.seq_len=200 is not a multiple of 128"),
        ("splash,block=100", asked("tpu"), "block=100 must be a multiple of 128"),
        ("cudnn", asked("gpu", attention_soft_cap=5.0), "no soft cap, and config.model.attention_soft_cap=5.0"),
        ("cudnn", asked("gpu", dtype="float32"), "computes in bfloat16, and config.model.dtype='float32'"),
        ("cudnn", asked("gpu", head_dim=36), "heads of a multiple of 8 and of at most 256, not of 36"),
        ("cudnn", asked("gpu", head_dim=192, capability=8.0), "at most 128 where JAX has no GPU from Hopper .* of 192"),
        ("cudnn", asked("gpu", capability=0.0), "it is NVIDIA's, and the mesh has GPUs of another maker"),
        ("blocked,block=-8", asked(), "block=-8 must be 0 or more"),
        ("flash", asked(), "is not known; use one of auto, plain, blocked, splash, cudnn"),
        ("blocked,size=8", asked(), "'size=8' is no option of 'blocked'; it has block="),
    ],
)
def test_a_named_backend_that_cannot_is_refused(text: str, what: Asked, said: str):
    with pytest.raises(ValueError, match=rf"config\.model\.attention='{text}'.*{said}"):
        choose_attention(text, what)


def test_equal_choices_are_one_function_so_that_models_are_equal():
    choice = choose_attention("blocked,block=32", asked())
    assert attention_fn_of(choice) is attention_fn_of(Choice("blocked", {"block": 32}))
    assert attention_fn_of(choose_attention("plain", asked())) is attention

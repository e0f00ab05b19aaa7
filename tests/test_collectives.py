"""Collectives of compiled programs: the reader on literal text, and each mesh axis against its textbook count."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from configs import base
from parallel import MeshConfig, make_mesh
from parallel.collectives import Total, axes_of, collectives, device_groups, format_collectives, totals
from train.ahead import Compiled, compile_and_listen, lower_step
from train.budget import budget, totals_of

SIZES = {"data": 2, "fsdp": 4}
PROGRAM = """HloModule jit_f, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

"""


def found_in(text: str, **kwargs) -> list[tuple]:
    return [
        (one.kind, "+".join(one.axes), [str(tensor) for tensor in one.tensors], one.bytes, one.trips)
        for one in collectives(PROGRAM + text, SIZES, **kwargs)
    ]


def test_what_the_hosts_pass_on_between_slices():
    """A send says what of; what an all-gather makes is what comes back. Other sends are nobody's business."""
    attributes = 'is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="r_0",'
    attributes += '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="'
    lines = [
        f'%s = (bf16[4,8], u32[], token[]) send(%x, %a), channel_id=4, {attributes}ALL_REDUCE"}}',
        f'%r = (bf16[4,8], u32[], token[]) recv(%a), channel_id=5, {attributes}ALL_REDUCE"}}',
        f'%t = (bf16[4,8], u32[], token[]) send(%x, %a), channel_id=6, {attributes}ALL_GATHER"}}',
        f'%u = (bf16[8,8], u32[], token[]) recv(%a), channel_id=7, {attributes}ALL_GATHER"}}',
        "%v = (f32[3], u32[], token[]) send(%x, %a), channel_id=8, is_host_transfer=true",
    ]
    body = "\n".join(f"  {line}" for line in lines)
    first = "  %x = bf16[4,8] parameter(0)\n  %a = token[] after-all()"
    assert found_in(f"ENTRY %main (x: bf16[4,8]) -> bf16[4,8] {{\n{first}\n{body}\n}}\n") == [
        ("all-reduce", "slices", ["bf16[4,8]"], 64, ()),
        ("all-gather", "slices", ["bf16[8,8]"], 128, ()),
    ]


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (
            "%g = f32[8,6]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}",
            ("all-gather", "fsdp", ["f32[8,6]"], 192, ()),
        ),
        (
            "%g = (bf16[2,6], bf16[8,6]) all-gather-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}",
            ("all-gather", "fsdp", ["bf16[8,6]"], 96, ()),
        ),
        (
            "%g = ((f32[2], f32[3]), (f32[8], f32[12])) all-gather-start(%p, %q), replica_groups=[2,4]<=[8]",
            ("all-gather", "fsdp", ["f32[8]", "f32[12]"], 80, ()),
        ),
        (
            "%r = f32[2,6]{1,0} reduce-scatter(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add",
            ("reduce-scatter", "data", ["f32[2,2,6]"], 96, ()),
        ),
        (
            "%r = (f32[3]{0:T(128)S(1)}, /*index=1*/bf16[5]{0}) all-reduce(%p, %q), replica_groups={}, to_apply=%add",
            ("all-reduce", "data+fsdp", ["f32[3]", "bf16[5]"], 22, ()),
        ),
        (
            "%r = f32[3] all-reduce-start(%p), replica_groups=mesh['x'=2,'y'=4] {'y'}, to_apply=%add",
            ("all-reduce", "fsdp", ["f32[3]"], 12, ()),
        ),
        (
            "%a = f32[4,6] all-to-all(%p), replica_groups=[2,4]<=[8], dimensions={0}",
            ("all-to-all", "fsdp", ["f32[4,6]"], 96, ()),
        ),
        (
            "%a = (f32[1,6], f32[1,6]) all-to-all(%p, %q), replica_groups=[4,2]<=[2,4]T(1,0)",
            ("all-to-all", "data", ["f32[2,1,6]"], 48, ()),
        ),
        (
            "%c = (s8[6], s8[6], u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,4},{4,0}}",
            ("collective-permute", "data", ["s8[6]"], 6, ()),
        ),
    ],
)
def test_one_collective(instruction: str, expected: tuple):
    done = "%d = f32[8,6] all-gather-done(%g)"
    assert found_in(f"ENTRY %main (p: f32[6]) -> f32[6] {{\n  {instruction}\n  {done}\n}}\n") == [expected]


def test_groups_of_one_device_are_no_collective():
    text = "ENTRY %main (p: f32[6]) -> f32[6] {\n  ROOT %r = f32[6] all-reduce(%p), replica_groups=[8,1]<=[8]\n}\n"
    assert found_in(text) == []


@pytest.mark.parametrize(
    ("notation", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("replica_groups={}", ((0, 1, 2, 3),)),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','c'}", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", ((3, 1), (2, 0))),
        ("source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
    ],
)
def test_groups_in_each_notation(notation: str, groups: tuple):
    assert device_groups(f"channel_id=1, {notation}, use_global_device_ids=true", 4) == groups


def test_axes_are_those_that_differ_within_a_group():
    sizes = {"stage": 1, "data": 2, "fsdp": 2, "tensor": 2}
    assert axes_of(((0, 1), (2, 3)), sizes) == ("tensor",)
    assert axes_of(((0, 4),), sizes) == ("data",)
    assert axes_of(((0, 1, 2, 3),), sizes) == ("fsdp", "tensor")


LOOPS = """%condition (c: (s32[], f32[6])) -> pred[] {
  %limit = s32[] constant(5)
  %c = (s32[], f32[6]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%fused (q: f32[6]) -> f32[6] {
  %q = f32[6]{0} parameter(0)
  ROOT %r = f32[6]{0} all-reduce(%q), replica_groups=[2,4]<=[8], to_apply=%add
}

%inner (b: (s32[], f32[6])) -> (s32[], f32[6]) {
  %b = (s32[], f32[6]) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[6] get-tuple-element(%b), index=1
  %y = f32[6] fusion(%x), kind=kCustom, calls=%fused
  ROOT %t = (s32[], f32[6]) tuple(%i, %y)
}

%outer (b: (s32[], f32[6])) -> (s32[], f32[6]) {
  %b = (s32[], f32[6]) parameter(0)
  %two = s32[] constant(2)
  %x = f32[6] get-tuple-element(%b), index=1
  %start = (s32[], f32[6]) tuple(%two, %x)
  ROOT %w = (s32[], f32[6]) while(%start), condition=%condition, body=%inner
}

ENTRY %main (p: f32[6]) -> f32[6] {
  %p = f32[6] parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[6]) tuple(%zero, %p)
  %w = (s32[], f32[6]) while(%start), condition=%condition, body=%outer, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %y = f32[6] get-tuple-element(%w), index=1
}
"""


def test_loops_are_multiplied_out():
    """The outer loop says 7; the inner one counts from 2 to below 5."""
    assert found_in(LOOPS) == [("all-reduce", "fsdp", ["f32[6]"], 24, (7, 3))]
    assert totals(collectives(PROGRAM + LOOPS, SIZES)) == {("all-reduce", ("fsdp",)): Total(21, 504)}


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(ValueError, match="the loop w has collectives in it"):
        found_in(LOOPS.replace("direction=LT", "direction=NE"))


def test_the_costliest_branch_of_a_conditional_counts():
    branch = (
        "%{0} (q: f32[{1}]) -> f32[{1}] {{\n  %q = f32[{1}] parameter(0)\n  ROOT %r = f32[{1}] all-gather(%q)\n}}\n\n"
    )
    text = branch.format("small", 6) + branch.format("large", 60)
    text += "ENTRY %main (p: f32[6]) -> f32[6] {\n  ROOT %c = f32[6] conditional(%i, %p, %p), "
    assert found_in(text + "branch_computations={%small, %large}\n}\n")[0][2] == ["f32[60]"]


def test_one_collective_spread_over_a_chain_of_fusions_counts_once():
    gather = '%g = f32[8]{0} all-gather(%q), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="0"}'
    text = "".join(f"%{name} (q: f32[2]) -> f32[8] {{\n  %q = f32[2] parameter(0)\n  {gather}\n}}\n\n" for name in "ab")
    text += "ENTRY %main (p: f32[2]) -> f32[8] {\n  %p = f32[2] parameter(0)\n"
    text += "  %x = f32[8] fusion(%p), calls=%a\n  ROOT %y = f32[8] fusion(%p), calls=%b\n}\n"
    assert found_in(text) == [("all-gather", "fsdp", ["f32[8]"], 32, ())]


SLICED = """%slice (q: f32[8,3], i: u32[]) -> f32[2,3] {
  %q = f32[8,3] parameter(0)
  %i = u32[] parameter(1)
  %b = f32[8,3] bitcast(%q)
  %zero = u32[] constant(0)
  ROOT %s = f32[2,3] dynamic-slice(%b, %i, %zero), dynamic_slice_sizes={2,3}
}

ENTRY %main (p: f32[8,3], n: u32[]) -> f32[2,3] {
  %p = f32[8,3] parameter(0)
  %n = u32[] parameter(1)
  %device = u32[] partition-id()
  %two = u32[] constant(2)
  %offset = u32[] multiply(%device, %two)
  %r = (f32[8,3], f32[8,3]) all-reduce(%p, %p), replica_groups=[2,4]<=[8], to_apply=%add
  %first = f32[8,3] get-tuple-element(%r), index=0
  %second = f32[8,3] get-tuple-element(%r), index=1
  %user = f32[8,3] negate(%second)
  ROOT %own = f32[2,3] fusion(%first, %offset), kind=kLoop, calls=%slice
}
"""


def test_an_all_reduce_of_which_a_device_keeps_its_part_is_a_reduce_scatter():
    whole, part = ("all-reduce", "fsdp", ["f32[8,3]"], 96, ()), ("reduce-scatter", "fsdp", ["f32[8,3]"], 96, ())
    assert found_in(SLICED) == [whole, part]
    both = ("all-reduce", "fsdp", ["f32[8,3]", "f32[8,3]"], 192, ())
    assert found_in(SLICED, sliced_all_reduce=False) == [both]
    # A slice that is not the device's own, such as a loop's, and one of another size.
    assert found_in(SLICED.replace("multiply(%device", "multiply(%n")) == [both]
    assert found_in(SLICED.replace("[2,4]<=[8]", "[4,2]<=[8]"))[0][0] == "all-reduce"


def test_the_table_for_people():
    assert format_collectives(collectives(PROGRAM + LOOPS, SIZES)).splitlines() == [
        "collective  axes  tensor  loops  count  bytes  from",
        "all-reduce  fsdp  f32[6]  7 x 3  21     504",
    ]


# The compiled step, axis by axis. Sizes are such that the bytes tell which tensor it was.


def small() -> ConfigDict:
    config = base.get_config()
    config.model.update(
        num_layers=3, d_model=96, num_heads=8, num_kv_heads=4, head_dim=16, d_mlp=160, vocab_multiple=16
    )
    config.model.update(activation="swiglu")
    config.data.update(vocab_size=320, seq_len=24, batch_size=8)
    return config


CASES = {
    "data": ({"data": 4}, {}),
    "data, untied, learned positions": ({"data": 4}, {"model.tie_embeddings": False, "model.position": "learned"}),
    "data, 4 microbatches": ({"data": 2}, {"train.microbatch_rows": 1}),
    "fsdp": ({"fsdp": 4}, {}),
    "fsdp, untied, learned positions": ({"fsdp": 4}, {"model.tie_embeddings": False, "model.position": "learned"}),
    "fsdp, remat, 2 microbatches": ({"fsdp": 2}, {"model.remat": "full", "train.microbatch_rows": 2}),
    "fsdp, zero1": ({"fsdp": 4}, {"mesh.rules": "zero1"}),
    "fsdp, zero2": ({"fsdp": 4}, {"mesh.rules": "zero2"}),
    "tensor": ({"tensor": 4}, {}),
    "tensor, remat": ({"tensor": 2}, {"model.remat": "full"}),
    "tensor, whole residual": ({"tensor": 4}, {"mesh.replaced_rules": "residual_length=context"}),
    "context, ring": ({"context": 4}, {}),
    "context, ring, remat, 4 microbatches": ({"context": 2}, {"model.remat": "full", "train.microbatch_rows": 2}),
    "context, all-to-all": ({"context": 4}, {"mesh.context_attention": "all_to_all"}),
    "expert, 2 microbatches": ({"expert": 4}, {"model.num_experts": 4, "train.microbatch_rows": 1}),
    "expert, capacity": ({"expert": 4}, {"model.num_experts": 4, "model.expert_capacity": 1.5}),
    "stage, 1f1b": ({"stage": 4}, {"model.num_layers": 4, "train.microbatch_rows": 1}),
    "stage, zero bubble": (
        {"stage": 4},
        {"model.num_layers": 4, "train.microbatch_rows": 1, "mesh.schedule": "zero_bubble"},
    ),
}


@functools.cache
def case(name: str) -> tuple[Compiled, ConfigDict, jax.sharding.Mesh]:
    axes, changes = CASES[name]
    config = small()
    config.update_from_flattened_dict(changes)
    (size,) = axes.values()
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), devices=jax.devices()[:size])
    return compile_and_listen(lower_step(config, mesh)), config, mesh


def measured(name: str) -> dict[tuple[str, tuple[str, ...]], Total]:
    compiled, _, mesh = case(name)
    return totals(collectives(compiled.text, mesh.shape))


@pytest.mark.xdist_group("collectives")
@pytest.mark.parametrize("name", CASES)
def test_the_step_has_exactly_the_collectives_of_the_textbook(name: str):
    compiled, config, mesh = case(name)
    assert measured(name) == totals_of(budget(config, mesh, "cpu"))
    assert not compiled.rematerializes, compiled.messages


# A layer's matrices: w_q and w_out 96 x 8 x 16, w_k and w_v 96 x 4 x 16, three of the MLP 96 x 160. A table: 320 x 96.
MATRICES = 4 * (2 * 96 * 128 + 2 * 96 * 64 + 3 * 96 * 160)
TABLE = 4 * 320 * 96
NORM = 4 * 96
RESIDUAL = 4 * 8 * 24 * 96
TOKENS = 4 * 8 * 24


@pytest.mark.xdist_group("collectives")
def test_data_in_literal_numbers():
    """All gradients once: 7 matrices and 2 norms of 3 layers, the last norm, and the table as embedding and as head."""
    bytes_once = 3 * (MATRICES + 2 * NORM) + NORM + 2 * TABLE
    assert measured("data") == {("all-reduce", ("data",)): Total(3 * 9 + 1 + 2, bytes_once)}
    # Summed over microbatches first: each parameter of all layers together, and the table once.
    assert measured("data, 4 microbatches") == {("all-reduce", ("data",)): Total(9 + 1 + 1, bytes_once - TABLE)}


@pytest.mark.xdist_group("collectives")
def test_fsdp_in_literal_numbers():
    """A layer's parameters are gathered twice and their gradients scattered once."""
    assert measured("fsdp") == {
        ("all-gather", ("fsdp",)): Total(2 * 3 * 7 + 1, 2 * 3 * MATRICES + TABLE),
        ("reduce-scatter", ("fsdp",)): Total(3 * 7 + 2, 3 * MATRICES + 2 * TABLE),
        ("all-reduce", ("fsdp",)): Total(3 * 2 + 1, 7 * NORM),
    }


@pytest.mark.xdist_group("collectives")
def test_tensor_in_literal_numbers():
    """Each way 2 + 2 a layer, where XLA for CPUs reduces q, k, v and the gate apart, and 2 inputs gathered again."""
    assert measured("tensor") == {
        ("all-gather", ("tensor",)): Total(3 * (2 + 4) + 2, 20 * RESIDUAL),
        ("reduce-scatter", ("tensor",)): Total(3 * (2 + 5) + 2, 23 * RESIDUAL),
        ("all-reduce", ("tensor",)): Total(3 + 7, 3 * TOKENS + 7 * NORM),
    }


# Keys and values, or queries, of a microbatch of all rows.
KEYS_AND_VALUES = 4 * 8 * 24 * 2 * 4 * 16
QUERIES = 4 * 8 * 24 * 8 * 16


@pytest.mark.xdist_group("collectives")
def test_context_in_literal_numbers():
    """The ring: 3 steps of k and v forward and backward, and 3 of their gradients. The other form: q, k, v and back."""
    reduced = {("all-reduce", ("context",)): measured("data")["all-reduce", ("data",)]}
    ids = 2 * TOKENS
    assert measured("context, ring") == reduced | {
        ("collective-permute", ("context",)): Total(3 * 9, 3 * 9 * KEYS_AND_VALUES // 4),
        ("all-gather", ("context",)): Total(1, ids),
    }
    assert measured("context, all-to-all") == reduced | {
        ("all-to-all", ("context",)): Total(3 * 8, 3 * 2 * (2 * QUERIES + KEYS_AND_VALUES) // 4),
        ("all-gather", ("context",)): Total(2, ids),
    }


@pytest.mark.xdist_group("collectives")
def test_experts_in_literal_numbers():
    """What replaces the MLP: tokens there and back each way; and the router, 96 x 4, instead of three matrices."""
    gradients = 3 * (MATRICES - 3 * 4 * 96 * 160 + 4 * 96 * 4 + 2 * NORM) + NORM + 2 * TABLE
    slots = 4 * 8 * 4 * 18 * 96 // 4  # 8 rows, 4 experts, ceil(1.5 x 24 x 2 / 4) slots, on 4 devices
    assert measured("expert, capacity") == {
        ("all-reduce", ("expert",)): Total(3 * (4 + 1 + 2) + 1 + 2, gradients),
        ("all-to-all", ("expert",)): Total(3 * 4, 3 * 4 * slots),
    }
    # Two of D, and with k = 2 the chosen experts and their weights; back the outputs, and the gradients of what went.
    assert measured("expert, 2 microbatches") == {
        ("all-reduce", ("expert",)): Total(2 * 24, 2 * gradients),
        ("all-gather", ("expert",)): Total(2 * 3 * 4, 3 * (2 * RESIDUAL + 2 * 2 * TOKENS)),
        ("reduce-scatter", ("expert",)): Total(2 * 3 * 3, 3 * (2 * RESIDUAL + 2 * TOKENS)),
    }


@pytest.mark.xdist_group("collectives")
def test_stages_in_literal_numbers():
    """8 microbatches and 4 stages: 11 ticks of each kind. 8 have the loss; 11 and 11 may have the two ends."""
    activations, tokens = RESIDUAL // 8, TOKENS // 8
    assert measured("stage, 1f1b") == {
        ("collective-permute", ("stage",)): Total(11 + 11 + 8, 30 * activations),
        ("all-reduce", ("stage",)): Total(11 + 11 + 2 * 8 + 3 * 8, 38 * activations + 24 * tokens),
    }


@pytest.mark.xdist_group("collectives")
def test_fsdp_gathers_a_layer_at_a_time():
    """All gathers of layers are inside the loop over layers, and no buffer holds a stack of gathered weights."""
    compiled, _, mesh = case("fsdp")
    gathers = [one for one in collectives(compiled.text, mesh.shape) if one.kind == "all-gather"]
    assert [one.trips for one in gathers if one.tensors[0].bytes != TABLE] == [(3,)] * 14
    for gathered in ("f32[3,96,160]", "f32[3,160,96]", "f32[3,96,8,16]", "f32[3,8,16,96]"):
        assert gathered not in compiled.text


def test_an_involuntary_rematerialization_is_heard():
    """Looking up rows of a table that is divided both ways by the axes that divide the batch."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    table = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp", "data")))
    tokens = jax.ShapeDtypeStruct((8, 16), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    wanted = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    look_up = jax.jit(lambda table, tokens: table[tokens], out_shardings=wanted)
    compiled = compile_and_listen(look_up.lower(table, tokens))
    assert compiled.rematerializes, compiled.messages


TOWERS = {"model.architecture": "encoder_decoder", "model.position": "relative", "model.num_layers": 2}
TOWERS |= {"data.task": "span_corruption", "data.tokenizer": "bpe,extra_ids=100", "data.vocab_size": 512}


@pytest.mark.xdist_group("collectives")
@pytest.mark.parametrize("changes", [TOWERS, {"train.parameters": "lora,rank=4"}], ids=["two towers", "lora"])
def test_fsdp_moves_what_the_textbook_says_of_two_towers_and_of_adapters(changes: dict[str, object]):
    """All layers of both are gathered; of adapters the gradient that is scattered is that of what they adapt."""
    config = small()
    config.update_from_flattened_dict(changes)
    mesh = make_mesh(MeshConfig(data=1, fsdp=4), devices=jax.devices()[:4])
    measured = totals(collectives(compile_and_listen(lower_step(config, mesh)).text, mesh.shape))
    on_paper = totals_of(budget(config, mesh, "cpu"))
    for kind in ("all-gather", "reduce-scatter"):
        assert measured[kind, ("fsdp",)] == on_paper[kind, ("fsdp",)]

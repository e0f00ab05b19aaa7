"""What is read off a compiled step, on literal errors, kernels and collectives."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from data import DataConfig, blank_row
from parallel import CHIPS, MeshConfig, make_mesh, parse_machine
from parallel.collectives import Collective
from parallel.cycles import Kernel, Work
from parallel.hlo import ArrayShape
from train.ahead import abstract_batch
from train.compile import compile_step, main, report, to_json
from train.compiled import Reading, attention_peak, expert_flops, kernel_flops, seconds_of, warnings_in
from train.device_memory import CompiledMemory, memory_of, memory_of_error
from train.flops import lengths_of, step_work
from train.words import GIB

V5P = parse_machine("v5p:4x4x4")


def small(**model: Any) -> ConfigDict:
    config = base.get_config()
    config.model.update(num_layers=1, d_model=32, num_heads=4, num_kv_heads=4, d_mlp=64, **model)
    config.data.update(vocab_size=300, seq_len=16, batch_size=8)
    return config


TEMPORARIES = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (26.68G) exceeds "
    "available HBM (15.75G)."
)
IN_ALL = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm. Exceeded hbm capacity by 2.75G.

  Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(train_step)/dot_general" source_file="a.py"
     Shape: bf16[8,4096,65536]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 4.00G
"""  # noqa: E501
EARLY = "It's unlikely to have enough device memory. Requires 29.50G, has 14.00G available."


@pytest.mark.parametrize(
    ("message", "needed", "available", "largest"),
    [
        # libtpu speaks of the temporaries alone: what the arguments hold comes on top.
        (TEMPORARIES, 27.68, 15.75, ()),
        (IN_ALL, 18.5, 15.75, ("4.00G bf16[8,4096,65536] jit(train_step)/dot_general",)),
        (EARLY, 29.5, 14.0, ()),
    ],
)
def test_an_error_about_memory_is_an_answer(message: str, needed: float, available: float, largest: tuple[str, ...]):
    memory = memory_of_error(message, V5P, arguments=2**30)
    assert memory is not None
    assert (memory.needed / 2**30, memory.available / 2**30) == (pytest.approx(needed), pytest.approx(available))
    assert not memory.fits
    assert memory.largest == largest


def test_another_error_is_none():
    assert memory_of_error("INTERNAL: Mosaic failed to compile", V5P, arguments=0) is None


@pytest.mark.parametrize(
    ("host", "peak", "needed"),
    [
        (0, 7 * GIB, 7 * GIB),  # what is alive at one time, not all that is laid out
        (5 * GIB, 7 * GIB, 7 * GIB),
        (200 * GIB, 201 * GIB, 9 * GIB),  # the host's peak: of the device no more is known than what is laid out
    ],
)
def test_what_waits_on_the_host_is_not_taken_for_memory_of_the_device(host: int, peak: int, needed: int):
    said = SimpleNamespace(
        argument_size_in_bytes=GIB,
        output_size_in_bytes=GIB,
        alias_size_in_bytes=GIB,
        temp_size_in_bytes=8 * GIB,
        generated_code_size_in_bytes=0,
        host_temp_size_in_bytes=host,
        peak_memory_in_bytes=peak,
    )
    program: Any = SimpleNamespace(memory_analysis=lambda: said)
    memory = memory_of(program, V5P)
    assert (memory.needed, memory.fits, memory.host) == (needed, True, host)


def test_memory_fits_up_to_the_last_byte():
    assert CompiledMemory(available=10, needed=10).fits
    assert not CompiledMemory(available=10, needed=11).fits


GIGABYTE = ArrayShape("bf16", (500, 1000, 1000))


def collective(kind: str, groups: tuple[tuple[int, ...], ...], trips: tuple[int, ...] = ()) -> Collective:
    return Collective(kind, (GIGABYTE,), groups, ("fsdp",), trips, "")


@pytest.mark.parametrize(
    ("kind", "hosts", "ici", "dcn"),
    [
        # v5p: 540 GB/s on all links, 90 on one, 6.25 between hosts or slices.
        ("all-gather", (0, 0, 0, 0), 1 / 540, 0),
        ("all-reduce", (0, 0, 0, 0), 2 / 540, 0),
        ("reduce-scatter", (0, 0, 0, 0), 1 / 540, 0),
        # Over two hosts of two: half of it crosses, which the two devices of a host share.
        ("all-reduce", (0, 0, 1, 1), 2 / 540, 2 / 2 / 2 / 6.25),
        ("all-gather", (0, 0, 1, 1), 1 / 540, 1 / 2 / 2 / 6.25),
        # Each device in a host of its own: the links within have no part in it.
        ("all-reduce", (0, 1, 2, 3), 0, 2 * 3 / 4 / 6.25),
    ],
)
def test_seconds_of_collectives(kind: str, hosts: tuple[int, ...], ici: float, dcn: float):
    found = seconds_of(collective(kind, ((0, 1, 2, 3),)), V5P, hosts)
    assert found == (pytest.approx(ici), pytest.approx(dcn))
    in_loop = seconds_of(collective(kind, ((0, 1, 2, 3),), (3, 2)), V5P, hosts)
    assert in_loop == (pytest.approx(6 * ici), pytest.approx(6 * dcn))


def test_a_permute_takes_one_link_and_waits_for_the_slowest_pair():
    one = collective("collective-permute", ((0, 1), (1, 0)))
    assert seconds_of(one, V5P, (0, 0)) == (pytest.approx(1 / 90), 0)
    assert seconds_of(one, V5P, (0, 1)) == (0, pytest.approx(1 / 6.25))


def test_what_goes_between_slices_takes_the_slower_network():
    """Of two slices each device sends half of an all-reduce's gigabyte, and then the sums."""
    one = dataclasses.replace(collective("all-reduce", ()), axes=("slices",))
    assert seconds_of(one, parse_machine("v5p:4x4x4", 2), (0,) * 64) == (0, pytest.approx(2 / 2 / 6.25))


def test_bounds_are_the_sum_and_the_longer():
    """2 x 459 TFLOP a device in 2 s of ideal time; 3 s of cycles and 1 s of kernels beside 1.5 + 0.5 s of network."""
    cycles = int(3 * (V5P.chip.clock_hz or 0))
    reading = Reading(V5P, {"fsdp": 64}, CompiledMemory(10, 5), 1000, 64 * 2 * 459e12)
    reading = dataclasses.replace(reading, work=Work({"fusion": cycles}), attention_s=1.0, ici_s=1.5, dcn_s=0.5)
    assert reading.serial_s == pytest.approx(6)
    assert reading.overlapped_s == pytest.approx(4)
    assert reading.mfu(reading.serial_s) == pytest.approx(1 / 3)
    assert reading.mfu(reading.overlapped_s) == pytest.approx(1 / 2)
    assert dataclasses.replace(reading, ici_s=9.0).overlapped_s == pytest.approx(9.5)
    assert dataclasses.replace(reading, work=Work({})).serial_s == pytest.approx(2 + 2)  # no cycles: at the peak


def test_operations_of_attention_kernels():
    """One layer of 4 heads of 8 over 8 rows of 16 tokens: a matmul is 2 * 8 * 16 * 8.5 * 4 * 8 operations."""
    mesh, matmul = make_mesh(MeshConfig(data=4), devices=jax.devices()[:4]), 2 * 8 * 16 * 8.5 * 4 * 8 / 4
    forward, dkv, dq = (Kernel("tpu_custom_call", f"splash_mha_{what}", 1) for what in ("fwd_residuals", "dkv", "dq"))

    def counted(*kernels: Kernel) -> float:
        return kernel_flops(small(), mesh, kernels) / matmul

    assert counted(forward) == 2
    assert counted(dataclasses.replace(forward, runs=2)) == 4  # once more in the backward pass, by remat
    assert counted(forward, dkv) == 2 + 5  # fused
    assert counted(forward, dkv, dq) == 2 + 4 + 3
    assert counted(Kernel("__cudnn$fmhaSoftmax", "a", 1), Kernel("__cudnn$fmhaSoftmaxBackward", "b", 1)) == 2 + 5
    assert counted(Kernel("tpu_custom_call", "grouped_matmul", 5)) == 0


def test_operations_of_experts_kernels():
    """Two of four experts of 16 for 8 rows of 16 tokens: a matmul is 2 * 8 * 16 * 2 * 32 * 16 operations."""
    mesh = make_mesh(MeshConfig(data=4), devices=jax.devices()[:4])
    names = ("ragged-dot-metadata.1", "ragged-dot-none.7", "tgmm.1 jit(step)/gmm", "gmm", "fusion ragged-dot-none")
    kernels = [Kernel("tpu_custom_call", name, 2) for name in names]
    config = small(num_experts=4, d_expert=16)
    assert expert_flops(config, mesh, kernels) == 3 * 2 * 2 * 8 * 16 * 2 * 32 * 16 / 4
    assert expert_flops(config, mesh, []) == kernel_flops(config, mesh, kernels) == 0


def test_attention_of_heads_of_128_reaches_half_of_v6es_peak():
    config = small(head_dim=128)
    config.model.dtype = "bfloat16"
    assert attention_peak(config, CHIPS["v5p"]) == 459e12
    assert attention_peak(config, CHIPS["v6e"]) == 459e12
    assert attention_peak(config, CHIPS["h100"]) == 989e12


def test_a_warning_is_told_once():
    line = "E0000 partitioner.cc:652] [spmd] Involuntary full rematerialization. The compiler cannot go from {a}"
    assert warnings_in(f"x\n{line}\n{line}\n") == (line[line.index("[spmd]") :],)


TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal_lm": ({}, {}),
    "prefix_lm": ({}, {"order": (8, 16)}),
    "masked_lm": ({"architecture": "encoder"}, {}),
    "span_corruption": (
        {"architecture": "encoder_decoder"},
        {"inputs": (8, 5), "encoder_inputs": (8, 16), "encoder_positions": (8, 16)},
    ),
    "seq2seq,source_length=24": ({"architecture": "encoder_decoder"}, {"inputs": (8, 16), "encoder_inputs": (8, 24)}),
    "classification": (
        {"architecture": "encoder", "classifier": "first,classes=3"},
        {"token_types": (8, 16), "labels": (8,), "weights": (8,)},
    ),
    "multilabel": ({"architecture": "encoder", "classifier": "first,classes=3"}, {"labels": (8, 3)}),
    "tags": ({"architecture": "encoder", "classifier": "tokens,classes=3"}, {"targets": (8, 16)}),
    "questions": (
        {"architecture": "encoder", "classifier": "tokens,classes=2"},
        {"starts": (8,), "candidates": (8, 16)},
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_abstract_batch_is_that_of_the_task(task: str):
    model, expected = TASKS[task]
    config = small(**model)
    config.data.task = task
    config.data.tokenizer = "bpe,extra_ids=10"
    batch = abstract_batch(config, make_mesh(MeshConfig(data=2), devices=jax.devices()[:2]))
    assert {name: batch[name].shape for name in expected} == expected
    assert batch["inputs"].sharding.shard_shape(batch["inputs"].shape)[0] == 4
    assert all(array.dtype in (np.int32, np.float32) for array in batch.values())


def test_the_work_of_a_step_is_that_of_its_rows():
    """Of an encoder-decoder both lengths count, and of classes there are no logits of a vocabulary."""
    config = small(architecture="encoder_decoder")
    config.data.task = "seq2seq,source_length=24"
    assert lengths_of(config) == (16, 24)
    assert step_work(config)[0] == 8 * (16 + 24)
    config = small(architecture="encoder", classifier="first,classes=3")
    config.data.task = "masked_lm"
    with_logits = step_work(config)[1]
    config.data.task = "classification"
    assert with_logits - step_work(config)[1] == 3 * 8 * 2 * 16 * 384 * 32  # 300 ids are padded to 384


def test_a_blank_row_needs_no_tokenizer():
    assert blank_row(DataConfig.of(small().data))["inputs"].tolist() == [0] * 16


@pytest.mark.parametrize(
    ("topology", "changes", "said"),
    [
        ("cpu:3", {}, "data.batch_size=8 is not divisible by the 3 shards"),
        ("cpu:4", {"mesh.tensor": 8}, "config.mesh.tensor=8 needs a multiple of 8 devices.*there are 4"),
        ("cpu:8", {"mesh.tensor": 8, "mesh.data": 1}, "config.model.num_heads makes 4 heads.*not divisible by the 8"),
        ("cpu:4", {"mesh.num_slices": 3}, "config.mesh.num_slices=3 does not divide the 4 devices"),
        ("cpu:4", {"platform": "tpu"}, "config.platform='tpu', but --topology=cpu:4 is 'cpu'"),
        ("cpu:4", {"model.architecture": "encoder"}, "is for config.model.architecture='decoder', not 'encoder'"),
    ],
)
def test_a_config_for_another_machine_is_one_error(topology: str, changes: dict[str, Any], said: str):
    config = small()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=said):
        compile_step(config, parse_machine(topology))


def test_the_command_compiles_for_simulated_cpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """No extra is needed for it, and what does not fit is an answer and exit status 1."""
    shape = [f"--config.model.{name}" for name in ("num_layers=1", "d_model=32", "d_mlp=64")]
    shape += [f"--config.data.{name}" for name in ("vocab_size=300", "seq_len=16")]
    argv = ["--config=configs/base.py", "--topology", "cpu:2", "--json", str(tmp_path / "a.json"), *shape]
    assert main(argv) == 0
    said, facts = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    assert "base on cpu:2: 2 cpu devices, data=2" in said
    assert "Memory    fits" in said
    assert "an estimate, not a measurement" in said
    assert facts["fits"] is True
    assert facts["tokens_per_step"] == 16 * 16
    assert {"kind", "axes", "tensors", "bytes"} == set(facts["collectives"][0])
    assert facts["collectives"][0]["kind"] == "all-reduce"
    # State and batch: 12 bytes a parameter (in float32, with two moments), and 5 arrays of 8 rows of 16.
    params = (facts["memory"]["arguments"] - 5 * 8 * 16 * 4) / 12
    assert params == pytest.approx(384 * 32 + 4 * 32 * 32 + 2 * 32 * 64 + 3 * 32, rel=1e-3)


def test_a_step_that_does_not_fit_has_no_time():
    memory = CompiledMemory(available=2**30, needed=3 * 2**30, arguments=2**30, temporaries=2**31, by_compiler=True)
    reading = Reading(V5P, {"fsdp": 64, "data": 1}, memory, 1000, 1e15)
    said = "\n".join(report(small(), reading))
    assert "DOES NOT FIT: needs 3.00 GiB of 1.00 GiB" in said
    assert "Time" not in said
    facts = to_json(small(), reading)
    assert facts["fits"] is False
    assert "estimated_bounds" not in facts

"""`train.compile` for TPUs that are not here: what fits and what does not, by the word of their compiler."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import base
from parallel import parse_machine
from train.compile import compile_step, main

pytestmark = [pytest.mark.tpu, pytest.mark.xdist_group("tpu")]


def small(**data: Any) -> ConfigDict:
    config = base.get_config()
    config.model.update(num_layers=2, d_model=256, num_heads=2, num_kv_heads=2, d_mlp=512, dtype="bfloat16")
    config.model.update(remat="full")
    config.data.update({"vocab_size": 512, "seq_len": 128, "batch_size": 8} | data)
    config.mesh.update(data=1, fsdp=4)
    return config


# Embedding and head, 2 layers of attention and MLP, 5 norms; float32 with two moments, on 4 devices.
PARAMETERS = 512 * 256 + 2 * (4 * 256 * 256 + 2 * 256 * 512) + 5 * 256


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_a_small_step_fits_and_has_bounds(topology: str):
    machine = parse_machine(topology)
    reading = compile_step(small(), machine)
    memory = reading.memory
    assert memory.fits
    assert memory.available == machine.chip.usable_bytes
    assert memory.arguments == pytest.approx(12 * PARAMETERS / 4, rel=0.03)  # norms are whole on each
    assert memory.aliased == pytest.approx(memory.outputs, rel=0.01)  # the new state takes the place of the old
    assert {kind for kind, _ in reading.totals} == {"all-gather", "all-reduce"}
    assert reading.work.total_cycles > reading.flops / 4 / (machine.chip.num_mxus * 2 * machine.chip.mxu_size**2)
    assert 0 < reading.ici_s < reading.overlapped_s * 100
    assert reading.serial_s == pytest.approx(reading.compute_s + reading.ici_s)
    assert 0 < reading.mfu(reading.serial_s) < reading.mfu(reading.overlapped_s) < 1
    assert (reading.dcn_s, reading.messages) == (0, ())
    assert {kernel.name[:10] for kernel in reading.work.kernels} == {"splash_mha"}


def test_between_slices_the_slower_network_counts():
    config = small()
    config.mesh.update(data=2, num_slices=2, slice_axes="data")
    reading = compile_step(config, parse_machine("v5e:2x2", num_slices=2))
    # The gradients, some in the compute dtype and some in float32; each device of a slice has a quarter of them.
    across = reading.totals["all-reduce", ("slices",)].bytes
    assert 2 * PARAMETERS / 4 <= across <= 4 * PARAMETERS / 4
    assert reading.dcn_s == pytest.approx(across / reading.machine.chip.dcn_bandwidth, rel=0.02)
    config.mesh.num_slices = 1
    with pytest.raises(ValueError, match=r"use config.mesh.num_slices=2"):
        compile_step(config, parse_machine("v5e:2x2", num_slices=2))


def test_a_step_that_is_too_large_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Logits of 32 rows of 8,192 tokens over 128,000 ids, in float32, are 31 GiB a device."""
    config = tmp_path / "large.py"
    config.write_text("from tests.test_tpu_readings import small\n\n\ndef get_config():\n    return small()\n")
    argv = ["--config", str(config), "--topology=v5e:2x2", f"--json={tmp_path / 'a.json'}"]
    argv += ["--config.data.vocab_size=128000", "--config.data.batch_size=32", "--config.data.seq_len=8192"]
    assert main(argv) == 1
    assert "DOES NOT FIT: needs " in capsys.readouterr().out
    memory = json.loads((tmp_path / "a.json").read_text())["memory"]
    assert memory["available"] == 15.75 * 2**30
    assert memory["needed"] > 8 * 8192 * 128000 * 4
    assert math.isclose(memory["arguments"], 12 * (128000 * 256 + PARAMETERS - 512 * 256) / 4, rel_tol=0.03)


def test_experts_multiply_only_their_own_rows():
    """All nine grouped matmuls of a layer, and three again by remat, are kernels: none is made of masks."""
    config = small()
    config.model.update(num_experts=8, experts_per_token=2, d_expert=256)
    reading = compile_step(config, parse_machine("v5p:2x2x1"))
    names = [kernel.name.split()[0].split(".")[0] for kernel in reading.work.kernels]
    made = [name for name in names if not name.startswith("splash")]
    assert sorted(made) == ["ragged-dot-metadata"] * 2 + ["ragged-dot-none"] * 6 + ["tgmm"] * 2
    matmul = 2 * 8 * 128 * 2 * 256 * 256 / 4
    assert reading.experts_s == pytest.approx(2 * 8 * matmul / reading.machine.chip.peak("bfloat16"))

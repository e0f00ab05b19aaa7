"""Machines by name, and the table of chips they are made of."""

import pytest

from parallel import CHIPS, parse_machine, topology_devices
from parallel.hardware import chip_of
from parallel.topology import target_config


@pytest.mark.parametrize(
    ("text", "num_slices", "devices", "per_slice", "hosts_or_slices", "name"),
    [
        ("v5p:4x4x4", 1, 64, 64, 1, "v5p:4x4x4"),
        ("v5p:8x16x16", 2, 4096, 2048, 2, "v5p:8x16x16"),
        ("V5E:16x16", 1, 256, 256, 1, "v5e:16x16"),
        ("v6e:1x1", 1, 1, 1, 1, "v6e:1x1"),
        ("tpu7x:2x2x4", 1, 32, 32, 1, "tpu7x:2x2x4"),  # two devices a chip
        ("gpu:h100:8x16", 1, 128, 8, 16, "gpu:h100:8x16"),
        ("gpu:h100:8x16", 16, 128, 8, 16, "gpu:h100:8x16"),
        ("gpu:h200:1", 1, 1, 1, 1, "gpu:h200:1"),
        ("gpu:a100:8", 1, 8, 8, 1, "gpu:a100:8"),
        ("cpu", 1, 1, 1, 1, "cpu:1"),
        ("cpu:8", 2, 8, 4, 2, "cpu:4"),
    ],
)
def test_machines(text: str, num_slices: int, devices: int, per_slice: int, hosts_or_slices: int, name: str):
    machine = parse_machine(text, num_slices)
    assert (machine.num_devices, machine.devices_per_slice, machine.num_slices) == (devices, per_slice, hosts_or_slices)
    assert machine.name == name
    assert hash(machine) == hash(parse_machine(text, num_slices))  # a key for what is compiled once


@pytest.mark.parametrize(
    ("text", "num_slices", "said"),
    [
        ("v5q:4x4x4", 1, "unknown chip; did you mean v5p, v5e"),
        ("h100:8", 1, "unknown chip; did you mean gpu:h100"),
        ("gpu:v5e:8", 1, "unknown chip; did you mean v5e"),
        ("v5p:4x4x5", 1, "no such slice of v5p .* nearest are v5p:4x4x4"),
        ("v5p:8x8x4", 1, "nearest are v5p:4x8x8"),
        ("v5p", 1, "nearest are v5p:2x2x1"),
        ("v6e:32x32", 1, "up to 16x16.* nearest are v6e:16x16"),
        ("v5e:2xx2", 1, "no such slice of v5e"),
        ("gpu:h100:4x2", 1, "gpu:h100:8x16 for 16 hosts"),
        ("gpu:h100:9", 1, "gpu:h100:1 to gpu:h100:8"),
        ("gpu:h100:8x4", 2, "slices of GPUs are their hosts; write gpu:h100:8x2"),
        ("cpu:x", 1, "write cpu, or cpu:8"),
        ("cpu:8", 3, "--num-slices=3 does not divide the 8 devices"),
        ("v5e:2x2", 0, "--num-slices=0 must be at least 1"),
        ("v4-512", 1, "256 chips, as v4-N counts cores; write its shape, one of v4:4x4x16, v4:4x8x8$"),
        ("v5p-7", 1, "there is no such slice of v5p"),
        ("v5e-7", 1, "nearest are v5e:2x4"),
        ("v9x-8", 1, "unknown chip"),
    ],
)
def test_what_is_wrong_with_a_name_and_what_is_near_to_it(text: str, num_slices: int, said: str):
    with pytest.raises(ValueError, match=said):
        parse_machine(text, num_slices)


@pytest.mark.parametrize(
    ("cloud", "name"),
    # The numbers of v4 and v5p count cores, of which a chip has two.
    [("v5e-8", "v5e:2x4"), ("v5litepod-16", "v5e:4x4"), ("v5p-128", "v5p:4x4x4"), ("v4-8", "v4:2x2x1")],
)
def test_machines_by_clouds_names(cloud: str, name: str):
    assert parse_machine(cloud) == parse_machine(name)
    assert parse_machine(cloud, 2).num_slices == 2


def test_which_dims_of_a_torus_wrap():
    """A cube of 4 x 4 x 4 is the least that does; of the flat ones only the whole pod's 16."""
    shapes = ("v5p:4x4x8", "v5p:2x4x4", "v5e:8x16", "v6e:8x8")
    assert [parse_machine(shape).wraps for shape in shapes] == [(True,) * 3, (False,) * 3, (False, True), (False,) * 2]


def test_figures_of_the_table_that_others_are_computed_from():
    """The links' sums of 540 and 360 GB/s, and the clocks that TPUs are known to have."""
    assert [CHIPS[name].interconnect_bandwidth for name in ("v5p", "v6e", "v5e")] == [540e9, 360e9, 180e9]
    assert [round(CHIPS[name].clock_hz or 0, -7) for name in ("v4", "v5e", "v5p", "v6e", "tpu7x")] == [
        1.05e9,
        1.50e9,
        1.75e9,
        1.75e9,
        2.20e9,
    ]
    assert CHIPS["h100"].clock_hz is None
    for chip in CHIPS.values():
        assert chip.sources
        assert 0.7 < chip.usable_bytes / chip.hbm_bytes < 1.01


def test_a_gpu_has_the_memory_that_the_environment_gives_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert parse_machine("gpu:h100:8").chip.usable_bytes == pytest.approx(0.9 * 84_942_979_072)


def test_simulated_devices_share_the_cpu():
    whole, parts = parse_machine("cpu").chip, parse_machine("cpu:8").chip
    assert parts.usable_bytes == whole.usable_bytes // 8
    assert parts.peak_flops["float32"] * 8 == whole.peak_flops["float32"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5", "v5p"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5e", "v5e"),
        ("TPU v6e", "v6e"),
        ("TPU v5p", "v5p"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_chips_by_the_names_that_jax_has(kind: str, name: str):
    chip = chip_of(kind)
    assert chip is not None
    assert chip.name == name
    assert chip_of("TPU v2") is None


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("v5p", "float32", 459),
        ("v5p", "int8", 918),
        ("h100", "bfloat16", 989),
        ("h100", "float32", 494.5),
        ("a100", "float32", 156),
        ("h100-pcie", "bfloat16", 756),
    ],
)
def test_the_peak_that_a_dtype_reaches(name: str, dtype: str, teraflops: float):
    """Float32 goes through bfloat16 on TPUs, and through TF32 on GPUs."""
    assert CHIPS[name].peak(dtype) == teraflops * 1e12
    assert CHIPS["v6e"].peak("bfloat16", inner=128) == 459e12  # half of a systolic array of 256
    assert CHIPS["v6e"].peak("bfloat16", inner=512) == 918e12
    cpu = CHIPS["cpu"]
    assert cpu.peak("float32") == cpu.peak_flops["float32"]


def test_all_gpus_can_be_compiled_for():
    for name, chip in CHIPS.items():
        if chip.platform == "gpu":
            assert f'device_description_str: "{chip.kinds[0]}"' in target_config(parse_machine(f"gpu:{name}:1"))


def test_cpu_devices_are_those_of_this_process():
    assert [device.id for device in topology_devices(parse_machine("cpu:4"))] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"has 8 CPU devices.*device_count=16"):
        topology_devices(parse_machine("cpu:16"))


@pytest.mark.parametrize(("machine", "extra"), [("v5e:2x2", r"palmette\[tpu\]"), ("gpu:h100:8", r"palmette\[cuda\]")])
def test_a_compiler_that_is_not_installed_is_named(machine: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"pip install '{extra}'"):
        topology_devices(parse_machine(machine))

"""What chips can do and how they are joined, in one table.

Figures are vendors' peaks, each with its source, so what is computed from them is a bound, never a measurement. A
*device* is what JAX counts: a TPU chip, one of the two halves of a TPU7x chip, a GPU, or a simulated part of this CPU.
All figures are of one device. Bandwidths are bytes per second in one direction.
"""

import dataclasses
import os
from collections.abc import Mapping

GB, GIB, TERA = 10**9, 2**30, 10**12
# Share of a GPU's memory that JAX takes at its start (docs.jax.dev, "GPU memory allocation").
GPU_MEMORY_FRACTION = 0.75

_BOOK = "jax-ml.github.io/scaling-book/tpus, tables of chips and links: ICI, DCN"
_COMPILER = "libtpu 0.0.42.1, what its message says is available when a program does not fit: usable memory"
_XLA_SPECS = "openxla/xla, xla/backends/gpu/target_config/specs: memory that CUDA reports"
_JAX_MEMORY = "docs.jax.dev/en/latest/gpu_memory_allocation.html: three quarters of a GPU's memory are taken"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        name: as a user writes it.
        platform: "tpu", "gpu" or "cpu".
        kinds: how JAX's name of the device starts: one of these.
        hbm_bytes: memory, as the vendor says.
        usable_bytes: of it, what a program may use.
        hbm_bandwidth: of that memory.
        peak_flops: matmul operations per second by dtype: "bfloat16", "int8", "float8", "tf32", "float32", without
            sparsity. What the vendor does not publish is not there; what a program reaches is `peak`.
        num_mxus: systolic arrays of a TPU, which multiply matrices.
        mxu_size: rows and columns of one; a matmul whose inner dim is shorter leaves the rest idle.
        num_links: links to neighbours, or 1 into a switch.
        link_bandwidth: of one link, in each of its two directions.
        dcn_bandwidth: a device's share of its host's network cards.
        devices_per_host: as rented; of a GPU, those that NVLink joins.
        devices_per_chip: as JAX shows them.
        pod_chips: most chips that ICI joins for one job.
        sources: of the figures.
    """

    name: str
    platform: str
    kinds: tuple[str, ...]
    hbm_bytes: int
    usable_bytes: int
    hbm_bandwidth: float
    peak_flops: Mapping[str, float] = dataclasses.field(hash=False)
    num_links: int
    link_bandwidth: float
    dcn_bandwidth: float
    devices_per_host: int
    sources: tuple[str, ...]
    devices_per_chip: int = 1
    pod_chips: int = 0
    num_mxus: int = 0
    mxu_size: int = 0

    @property
    def kind(self) -> str:
        """The most usual of its names."""
        return self.kinds[0]

    def peak(self, dtype: str, *, inner: int = 0) -> float:
        """Matmul operations per second that a program of this dtype can reach, of a device.

        By JAX's default precision float32 is multiplied in one pass of bfloat16 on TPUs, and as TF32 on GPUs that have
        it (docs.jax.dev, `jax.lax.Precision.DEFAULT`).

        Args:
            dtype: of what is multiplied.
            inner: the length of the dim that is summed over, such as a head's; where it is shorter than an MXU, the
                rest of that is idle. 0 is any number that is not.
        """
        used = min(1.0, inner / self.mxu_size) if inner and self.mxu_size else 1.0
        if dtype == "float32":
            dtype = {"tpu": "bfloat16", "gpu": "tf32"}.get(self.platform, dtype)
        return self.peak_flops[dtype] * used

    @property
    def torus_dims(self) -> int:
        """Dims of the torus that ICI joins chips in; 0 where there is a switch, or nothing."""
        return self.num_links // 2 if self.platform == "tpu" else 0

    @property
    def interconnect_bandwidth(self) -> float:
        """Bytes per second that a device can send over all its links of ICI or NVLink together."""
        return self.num_links * self.link_bandwidth

    @property
    def clock_hz(self) -> float | None:
        """Cycles per second of a TPU: its peak by the 2 x size x size operations of an MXU in a cycle; None of others.

        The compiler's own estimate of a bfloat16 matmul of 16384 x 16384 x 16384 comes to 94, 92, 94, 78 and 85% of
        the peak at this clock on v4, v5e, v5p, v6e and TPU7x (libtpu 0.0.42.1).
        """
        if not self.num_mxus:
            return None
        return self.peak_flops["bfloat16"] / (self.num_mxus * 2 * self.mxu_size**2)


def _this_cpu() -> Chip:
    """This host's CPU. The rates are round figures to compare plans by, not any vendor's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # no such figure on this system
        memory = 8 * GIB
    return Chip(
        name="cpu",
        platform="cpu",
        kinds=("cpu",),
        hbm_bytes=memory,
        usable_bytes=memory,
        hbm_bandwidth=10.0 * GB * cores,
        peak_flops={"float32": 0.1 * TERA * cores, "bfloat16": 0.1 * TERA * cores},
        num_links=1,
        link_bandwidth=10.0 * GB,
        dcn_bandwidth=1.0 * GB,
        devices_per_host=1,
        sources=("memory: the operating system", "rates: assumed, 0.1 TFLOP/s and 10 GB/s a core"),
    )


_A100 = Chip(
    name="a100",
    platform="gpu",
    kinds=("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM-80GB", "NVIDIA A100"),
    hbm_bytes=80 * GIB,
    usable_bytes=int(GPU_MEMORY_FRACTION * 85_100_068_864),
    hbm_bandwidth=2039 * GB,
    peak_flops={"bfloat16": 312 * TERA, "int8": 624 * TERA, "tf32": 156 * TERA, "float32": 19.5 * TERA},
    num_links=1,
    link_bandwidth=300 * GB,
    dcn_bandwidth=25 * GB,
    devices_per_host=8,
    sources=(
        "NVIDIA A100 data sheet, SXM 80GB",
        "NVIDIA DGX A100 data sheet: 8 cards of 200 Gb/s",
        _XLA_SPECS,
        _JAX_MEMORY,
    ),
)
_H100 = Chip(
    name="h100",
    platform="gpu",
    kinds=("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
    hbm_bytes=80 * GIB,
    usable_bytes=int(GPU_MEMORY_FRACTION * 84_942_979_072),
    hbm_bandwidth=3350 * GB,
    peak_flops={"bfloat16": 989 * TERA, "int8": 1979 * TERA, "float8": 1979 * TERA, "tf32": 494.5 * TERA}
    | {"float32": 67 * TERA},
    num_links=1,
    link_bandwidth=450 * GB,
    dcn_bandwidth=50 * GB,
    devices_per_host=8,
    sources=(
        "NVIDIA H100 data sheet, SXM: half of the figures with sparsity, and of NVLink's, which is of both directions",
        "NVIDIA DGX H100 data sheet: 8 cards of 400 Gb/s",
        _XLA_SPECS,
        _JAX_MEMORY,
    ),
)
_ALL = (
    Chip(
        name="v4",
        platform="tpu",
        kinds=("TPU v4",),
        hbm_bytes=32 * GIB,
        usable_bytes=int(30.75 * GIB),
        hbm_bandwidth=1200 * GB,
        peak_flops={"bfloat16": 275 * TERA, "int8": 275 * TERA},
        num_mxus=8,  # 1.05 GHz
        mxu_size=128,
        num_links=6,
        link_bandwidth=45 * GB,
        dcn_bandwidth=6.25 * GB,
        devices_per_host=4,
        pod_chips=4096,
        sources=("docs.cloud.google.com/tpu/docs/v4: memory, peaks, MXUs, pod", _BOOK, _COMPILER),
    ),
    Chip(
        name="v5e",
        platform="tpu",
        kinds=("TPU v5 lite", "TPU v5e"),
        hbm_bytes=16 * GIB,
        usable_bytes=int(15.75 * GIB),
        hbm_bandwidth=819 * GB,
        peak_flops={"bfloat16": 197 * TERA, "int8": 393 * TERA},
        num_mxus=4,  # 1.50 GHz
        mxu_size=128,
        num_links=4,
        link_bandwidth=45 * GB,
        dcn_bandwidth=3.125 * GB,  # two cards of 100 Gb/s for 8 chips
        devices_per_host=8,
        pod_chips=256,
        sources=("docs.cloud.google.com/tpu/docs/v5e: memory, peaks, MXUs, pod, cards", _BOOK, _COMPILER),
    ),
    Chip(
        name="v5p",
        platform="tpu",
        kinds=("TPU v5", "TPU v5p"),
        hbm_bytes=95 * GIB,
        usable_bytes=int(95.74 * GIB),  # more than the vendor says
        hbm_bandwidth=2765 * GB,
        peak_flops={"bfloat16": 459 * TERA, "int8": 918 * TERA},
        num_mxus=8,  # 1.75 GHz
        mxu_size=128,
        num_links=6,
        link_bandwidth=90 * GB,  # the vendor's 1,200 GB/s are of both directions, and raw
        dcn_bandwidth=6.25 * GB,
        devices_per_host=4,
        pod_chips=6144,
        sources=("docs.cloud.google.com/tpu/docs/v5p: memory, peak of bfloat16, MXUs, pod, DCN", _BOOK, _COMPILER),
    ),
    Chip(
        name="v6e",
        platform="tpu",
        kinds=("TPU v6 lite", "TPU v6e"),
        hbm_bytes=32 * GIB,
        usable_bytes=int(31.25 * GIB),
        hbm_bandwidth=1640 * GB,
        peak_flops={"bfloat16": 918 * TERA, "int8": 1836 * TERA},
        # 1.75 GHz. One edition of the page has 4 MXUs, another 2, which would be twice that clock.
        num_mxus=4,
        mxu_size=256,
        num_links=4,
        link_bandwidth=90 * GB,
        dcn_bandwidth=12.5 * GB,
        devices_per_host=8,
        pod_chips=256,
        sources=("docs.cloud.google.com/tpu/docs/v6e: memory, peaks, MXUs, pod, DCN", _BOOK, _COMPILER),
    ),
    Chip(
        name="tpu7x",
        platform="tpu",
        kinds=("TPU7x", "TPU v7x"),
        hbm_bytes=96 * GIB,
        usable_bytes=int(94.75 * GIB),
        hbm_bandwidth=3690 * GB,
        peak_flops={"bfloat16": 1153.5 * TERA, "float8": 2307 * TERA},
        # 2.2 GHz, if a core has as many MXUs as v6e's; the vendor does not say.
        num_mxus=4,
        mxu_size=256,
        num_links=6,
        link_bandwidth=45 * GB,  # half a v5p's: the same 1,200 GB/s a chip, which two devices share
        dcn_bandwidth=6.25 * GB,
        devices_per_host=8,
        devices_per_chip=2,
        pod_chips=9216,
        sources=("docs.cloud.google.com/tpu/docs/tpu7x: memory, peaks, ICI, DCN, pod, halved", _COMPILER),
    ),
    _A100,
    dataclasses.replace(
        _A100,
        name="a100-40gb",
        kinds=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM-40GB"),
        hbm_bytes=40 * GIB,
        usable_bytes=int(GPU_MEMORY_FRACTION * 42_331_013_120),
        hbm_bandwidth=1555 * GB,
        sources=("NVIDIA A100 data sheet, SXM 40GB", *_A100.sources[1:]),
    ),
    # Cards: PCIe joins them, at half of what the vendor says of both directions.
    dataclasses.replace(
        _A100,
        name="a100-pcie",
        kinds=("NVIDIA A100 80GB PCIe",),
        hbm_bandwidth=1935 * GB,
        link_bandwidth=32 * GB,
        sources=("NVIDIA A100 data sheet, PCIe 80GB", *_A100.sources[1:]),
    ),
    dataclasses.replace(
        _A100,
        name="a100-pcie-40gb",
        kinds=("NVIDIA A100-PCIE-40GB",),
        hbm_bytes=40 * GIB,
        usable_bytes=int(GPU_MEMORY_FRACTION * 42_331_013_120),
        hbm_bandwidth=1555 * GB,
        link_bandwidth=32 * GB,
        sources=("NVIDIA A100 data sheet, PCIe 40GB", *_A100.sources[1:]),
    ),
    _H100,
    dataclasses.replace(
        _H100,
        name="h100-pcie",
        kinds=("NVIDIA H100 PCIe",),
        hbm_bandwidth=2000 * GB,
        peak_flops={"bfloat16": 756 * TERA, "int8": 1513 * TERA, "float8": 1513 * TERA, "tf32": 378 * TERA}
        | {"float32": 51 * TERA},
        link_bandwidth=64 * GB,
        sources=("NVIDIA H100 data sheet, PCIe: half of the figures with sparsity", *_H100.sources[1:]),
    ),
    dataclasses.replace(
        _H100,
        name="h100-nvl",
        kinds=("NVIDIA H100 NVL",),
        hbm_bytes=94 * GIB,
        usable_bytes=int(GPU_MEMORY_FRACTION * 93.1 * GIB),
        hbm_bandwidth=3900 * GB,
        peak_flops={"bfloat16": 835.5 * TERA, "int8": 1671 * TERA, "float8": 1671 * TERA, "tf32": 417.5 * TERA}
        | {"float32": 60 * TERA},
        link_bandwidth=64 * GB,  # NVLink joins pairs alone
        sources=("NVIDIA H100 NVL data sheet: half of the figures with sparsity", *_H100.sources[1:]),
    ),
    dataclasses.replace(
        _H100,
        name="h200",
        kinds=("NVIDIA H200",),
        hbm_bytes=141 * GIB,
        usable_bytes=int(GPU_MEMORY_FRACTION * 139.8 * GIB),
        hbm_bandwidth=4800 * GB,
        sources=("NVIDIA H200 data sheet, SXM", *_H100.sources, "memory: the 139.8 GiB that PyTorch reports there"),
    ),
    _this_cpu(),
)
CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device that JAX found, by its kind; the longest name that fits counts. None if it is not known."""
    fitting = [(len(kind), name) for name, chip in CHIPS.items() for kind in chip.kinds if device_kind.startswith(kind)]
    return CHIPS[max(fitting)[1]] if fitting else None

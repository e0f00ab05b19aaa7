"""How a step's time, memory and compile time grow with depth, length, batch and devices.

    JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.bench.scaling

It takes ten minutes on two CPU cores, and writes tests/bench/results/scaling.json, docs/scaling.md and its picture.
"""

import itertools
import math
import statistics
import time
from typing import Any

import jax

from configs import base
from parallel import make_mesh, shard_batch
from tests.bench.peers.ours import batch_of, processor
from tests.bench.peers.shapes import Texts, gpt2
from tests.bench.results import ROOT, save
from train.ahead import lower_step
from train.flops import row_work
from train.runtime import set_up
from train.state import init_state

SHAPE = gpt2(4, 256, 4, 256, 8, 512)
# Axis -> field of the config, and its sizes; what is not named stays as in `SHAPE`. None is the number of devices.
AXES: dict[str, tuple[str | None, tuple[int, ...]]] = {
    "depth": ("model.num_layers", (1, 2, 4, 8, 16, 32)),
    "length": ("data.seq_len", (64, 128, 256, 512, 1024, 2048)),
    "batch": ("data.batch_size", (1, 2, 4, 8, 16, 32)),
    "devices": (None, (1, 2, 4, 8)),
}
ROUNDS = 3
FIGURES = {"seconds": "seconds a step", "bytes": "MB a device", "compile_s": "seconds to compile"}

HEADER = f"""# Scaling

![curves](scaling.svg)

A GPT-2 of {SHAPE.layers} layers of {SHAPE.width}, {SHAPE.vocab} tokens, {SHAPE.rows} rows of {SHAPE.length} tokens, in
float32 on {{machine}}; one of these grows at a time. Devices are simulated on the same cores, and divide parameters
and batch (`fsdp`): of them only the memory means something. Memory is the compiler's word: state, batch and
temporaries of a device. `grows by` is the exponent between two sizes: 1 is in proportion. GFLOP/s counts the model's
own work; a step's time is the median of {ROUNDS}, and the layers are a loop, so compile time does not grow with depth.

| | size | ms a step | grows by | GFLOP/s | MB a device | grows by | s to compile |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def measure(axis: str, size: int) -> dict[str, Any]:
    """A size of an axis."""
    config: Any = base.get_config()
    config.model.update(num_layers=SHAPE.layers, d_model=SHAPE.width, num_heads=SHAPE.heads, num_kv_heads=SHAPE.heads)
    config.model.update(d_mlp=SHAPE.hidden, norm="layernorm", bias="all", position="learned")
    config.data.update(vocab_size=SHAPE.vocab, seq_len=SHAPE.length, batch_size=SHAPE.rows)
    field = AXES[axis][0]
    if field:
        config.update_from_flattened_dict({field: size})
    config.mesh.update(data=1, fsdp=1 if field else size)
    mesh = make_mesh(config.mesh, devices=jax.devices()[: 1 if field else size])
    lowered = lower_step(config, mesh)
    began = time.perf_counter()
    program = lowered.compile()
    compile_s = time.perf_counter() - began
    memory: Any = program.memory_analysis()
    shape = SHAPE._replace(length=config.data.seq_len, rows=config.data.batch_size)
    texts = Texts.read(shape, "")
    state, batch = init_state(config, mesh), shard_batch(batch_of(texts.inputs[0], texts.targets[0]), mesh)
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        state, metrics = program(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    return {
        "axis": axis,
        "size": size,
        "seconds": statistics.median(seconds[1:]),
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "compile_s": compile_s,
        "flops": row_work(config)[1] * config.data.batch_size,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page for the docs."""
    lines = HEADER.format(machine=processor())
    for axis in AXES:
        of_axis = [row for row in rows if row["axis"] == axis]
        for before, row in itertools.pairwise([None, *of_axis]):
            assert row is not None
            lines += (
                f"| {axis} | {row['size']:,} | {1e3 * row['seconds']:,.0f} | {_exponent(before, row, 'seconds')} | "
                f"{row['flops'] / row['seconds'] / 1e9:,.0f} | {row['bytes'] / 1e6:,.0f} | "
                f"{_exponent(before, row, 'bytes')} | {row['compile_s']:.1f} |\n"
            )
    return lines


def _exponent(before: dict[str, Any] | None, row: dict[str, Any], name: str) -> str:
    if before is None:
        return ""
    return f"{math.log(row[name] / before[name]) / math.log(row['size'] / before['size']):.2f}"


def draw(rows: list[dict[str, Any]]) -> None:
    """Draws docs/scaling.svg."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(FIGURES), len(AXES), figsize=(10, 6), sharex="col", layout="constrained")
    for (i, (name, unit)), (j, axis) in itertools.product(enumerate(FIGURES.items()), enumerate(AXES)):
        of_axis = [row for row in rows if row["axis"] == axis]
        scale = 1e-6 if name == "bytes" else 1.0
        panels[i][j].plot([row["size"] for row in of_axis], [scale * row[name] for row in of_axis], marker="o")
        panels[i][j].set(xscale="log", yscale="log", xlabel=axis if i == len(FIGURES) - 1 else "")
        panels[i][j].set_ylabel(unit if j == 0 else "")
    figure.savefig(ROOT / "docs" / "scaling.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measures all sizes of all axes."""
    set_up("")
    jax.config.update("jax_enable_compilation_cache", False)
    rows = [measure(axis, size) for axis, (_, sizes) in AXES.items() for size in sizes]
    draw(rows)
    save("scaling", rows, markdown(rows))


if __name__ == "__main__":
    main()

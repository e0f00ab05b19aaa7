"""Products in 8 bits (`products` in config.model.dtype): which chips have them, and how fast all products together are.

The planner's bounds and MFU count projections at the peak of their operands' type, all else at the compute dtype's.
Bytes of memory and network are counted as without: weights and activations are kept and sent in the compute dtype.
"""

from model import TransformerConfig, attention_flops, forward_flops
from model.products import library
from parallel import CHIPS, Chip


def check_products(model: TransformerConfig, chip: Chip | None) -> None:
    """Checks that a chip multiplies what the model's projections are rounded to, and that the library is there.

    Args:
        model: its shape.
        chip: None is one that is in no table. CPUs pass: there such products are slow, but the same.

    Raises:
        ValueError: the chip has none, or the library is not installed; it names the key and a legal choice.
    """
    if not model.products:
        return
    if chip is not None and chip.platform != "cpu" and model.products not in chip.peak_flops:
        others = [name for name, one in CHIPS.items() if model.products in one.peak_flops]
        raise ValueError(
            f"config.model.dtype={model.dtype!r}: {chip.name} has no {model.products} products, which "
            f"{', '.join(others)} have; use {model.compute_dtype!r}"
            + "".join(f" or '{model.compute_dtype},products={n}'" for n in ("int8", "float8") if n in chip.peak_flops)
        )
    library()


def mean_peak(
    chip: Chip, model: TransformerConfig, length: int, *, encoder_length: int = 0, logits: bool = True
) -> float:
    """Operations a second of a device that runs each of the model's products at its peak.

    Args:
        chip: one without a figure for the type of the projections' operands runs them as the other products.
        model: its shape.
        length: see `model.forward_flops`, as for the rest.
        encoder_length: see there.
        logits: see there.
    """
    peak = chip.peak(model.compute_dtype)
    if model.products not in chip.peak_flops:
        return peak
    whole = forward_flops(model, length, encoder_length=encoder_length, logits=logits)
    projections = forward_flops(model, length, encoder_length=encoder_length, logits=False)
    projections -= attention_flops(model, length, encoder_length=encoder_length)
    return whole / ((whole - projections) / peak + projections / chip.peak_flops[model.products])

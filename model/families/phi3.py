"""Phi-3: Llama with fused projections, and LongRoPE in the long models."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family, options
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, MLP, NO_BIAS, NORMS, read_llama, write_llama
from .positions import longrope_scale, read_rope, read_windows, write_rope

FUSED = {
    "model.layers.{i}.self_attn.qkv_proj.weight": (
        "layers/attention/w_q: *(N H) D -> D N H",
        "layers/attention/w_k: *(K H) D -> D K H",
        "layers/attention/w_v: *(K H) D -> D K H",
    ),
    "model.layers.{i}.mlp.gate_up_proj.weight": (
        "layers/mlp/w_gate: *F D -> D F",
        "layers/mlp/w_in: *F D -> D F",
    ),
}
KEPT = ("model.layers.{i}.self_attn.o_proj.weight", "model.layers.{i}.mlp.down_proj.weight")


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_llama(config), **read_rope(config, fraction=1.0), **read_windows(config["sliding_window"], None)}


def _write(core: Config) -> Config:
    written = {**write_llama(core), **write_rope(core, has_fraction=True), "sliding_window": core["window"] or None}
    scaling, longest = options(core["rope_scaling"]), core["max_length"]
    written["original_max_position_embeddings"] = scaling.get("length", longest)
    if scaling["kind"] == "longrope" and scaling["scale"] == longrope_scale(
        longest / scaling["length"], scaling["length"]
    ):
        # transformers 4 wants these three keys and no other, and finds the scale itself.
        factors = {name: written["rope_scaling"][name] for name in ("short_factor", "long_factor")}
        written["rope_scaling"] = {"type": "longrope", **factors}
    return written


PHI3 = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS, **FUSED, **{name: (ATTENTION | MLP)[name] for name in KEPT}},
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5, "sliding_window": None, "max_position_embeddings": 4096},
    legal=NO_BIAS,
    **FILES,
)

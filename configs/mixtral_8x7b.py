"""Mixtral 8x7B (Jiang et al. 2024, arXiv:2401.04088, table 1): two of eight experts for each token.

    python -m train.plan --config configs/mixtral_8x7b.py --topology v5p:4x4x4

4 million tokens a step at 8,192 tokens a row; 46,702,792,704 parameters, of which a token passes 12.9 billion.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "mixtral_8x7b"
    config.model.update(num_layers=32, d_model=4096, num_heads=32, num_kv_heads=8, d_mlp=14336)
    config.model.update(activation="swiglu", norm_eps=1e-5, tie_embeddings=False, rope_theta=1e6)
    config.model.update(num_experts=8, experts_per_token=2, dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=32_000, seq_len=8192, batch_size=512)
    config.optimizer.update(learning_rate=3e-4, warmup_steps=2000)
    config.train.steps = 100_000
    return config

"""Qwen3, 235 billion parameters, 22 of them active (Yang et al. 2025, arXiv:2505.09388, table 2).

    python -m train.plan --config configs/qwen3_235b_a22b.py --topology v5p:8x8x8

8 million tokens a step at 4,096 tokens a row; 235,093,634,560 parameters; eight of 128 experts for each token.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "qwen3_235b_a22b"
    config.model.update(num_layers=94, d_model=4096, num_heads=64, num_kv_heads=4, head_dim=128, d_mlp=12288)
    config.model.update(activation="swiglu", tie_embeddings=False, rope_theta=1e6, qk_norm="head")
    config.model.update(num_experts=128, experts_per_token=8, d_expert=1536, dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=151_936, seq_len=4096, batch_size=2048)
    config.optimizer.update(learning_rate=2e-4, warmup_steps=2000)
    config.train.steps = 100_000
    return config

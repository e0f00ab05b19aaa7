"""Llama 3, 405 billion parameters (Grattafiori et al. 2024, arXiv:2407.21783, table 3).

    python -m train.plan --config configs/llama3_405b.py --topology v5p:8x16x16

16 million tokens a step at 8,192 tokens a row; 405,853,388,800 parameters.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "llama3_405b"
    config.model.update(num_layers=126, d_model=16384, num_heads=128, num_kv_heads=8, d_mlp=53248)
    config.model.update(activation="swiglu", norm_eps=1e-5, tie_embeddings=False, rope_theta=500_000.0)
    config.model.update(dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=128_256, seq_len=8192, batch_size=2048)
    config.optimizer.update(learning_rate=8e-5, warmup_steps=8000)
    config.train.steps = 1_000_000
    return config

"""Llama 2, 70 billion parameters (Touvron et al. 2023, arXiv:2307.09288, table 1).

    python -m train.plan --config configs/llama2_70b.py --topology v5p:8x8x8

4 million tokens a step at 4,096 tokens a row; 68,976,648,192 parameters.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "llama2_70b"
    config.model.update(num_layers=80, d_model=8192, num_heads=64, num_kv_heads=8, d_mlp=28672)
    config.model.update(activation="swiglu", norm_eps=1e-5, tie_embeddings=False)
    config.model.update(dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=32_000, seq_len=4096, batch_size=1024)
    config.optimizer.update(learning_rate=1.5e-4, warmup_steps=2000)
    config.train.steps = 100_000
    return config

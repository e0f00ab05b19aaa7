"""T5, 11 billion parameters (Raffel et al. 2020, arXiv:1910.10683, section 3.7), on a million tokens a step.

    python -m train.plan --config configs/t5_11b.py --topology v5p:4x4x4

11,307,321,344 parameters: 24 layers each way, 128 heads of 128 and a hidden width of 65,536 around 1,024 numbers.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "t5_11b"
    config.model.update(architecture="encoder_decoder", num_layers=24, d_model=1024, num_heads=128, num_kv_heads=128)
    config.model.update(head_dim=128, d_mlp=65536, activation="relu", position="relative", attention_scale=1.0)
    config.model.update(logit_scale=1024**-0.5, max_length=512, dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", task="span_corruption", batch_size=2048)
    config.data.update(tokenizer="bpe,extra_ids=100", vocab_size=32_128, seq_len=512)
    config.optimizer.update(learning_rate=1e-3, schedule="inverse_sqrt", warmup_steps=10_000)
    config.train.steps = 524_288
    config.sample.prompts = ()
    return config

"""BERT-large, 336 million parameters with its two heads (Devlin et al. 2019, arXiv:1810.04805, section 3).

    python -m train.plan --config configs/bert_large.py --topology v5e:2x4

The batch of You et al. 2020 (arXiv:1904.00962) for the long rows; 336,226,108 parameters, the vocabulary not padded.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "bert_large"
    config.model.update(architecture="encoder", num_layers=24, d_model=1024, num_heads=16, num_kv_heads=16, d_mlp=4096)
    config.model.update(block="post", norm="layernorm", norm_eps=1e-12, bias="all", activation="gelu_exact")
    config.model.update(position="learned", token_types=2, embedding_norm="norm", dropout=0.1, dtype="bfloat16")
    config.model.update(head="transform", classifier="tanh,classes=2")
    config.data.update(source="jsonl,path=~/data/text", task="masked_lm,next_sentence=1", batch_size=4096)
    config.data.update(tokenizer="bpe,extra_ids=100", vocab_size=30_522, seq_len=512)
    config.optimizer.update(name="adamw,b2=0.999", learning_rate=1e-3, warmup_steps=1500)
    config.train.steps = 31_250
    config.sample.prompts = ()
    return config

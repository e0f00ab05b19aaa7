"""One tiny Hugging Face model for each family, with every size odd: what golden files and live test compare.

Sizes differ from one another wherever the family lets them: grouped heads, a head dim that is not d_model / heads, an
untied head, a vocabulary that is no multiple of 128, windows shorter than the rows, every kind of layer at least once.
"""

import dataclasses
from typing import Any, Literal

VOCAB_SIZE = 131
PAD, BOS, EOS = 1, 0, 2
MAX_LENGTH = 80  # a prompt and 64 tokens more
NUM_CLASSES = 5

Kind = Literal["decoder", "encoder", "encoder_decoder", "hidden", "image"]


@dataclasses.dataclass(frozen=True)
class Reference:
    """A tiny model of `transformers`.

    Attributes:
        model_type: The family's name in `transformers`.
        architecture: The class that loads it.
        kind: What goes in and comes out: tokens and next-token logits (decoder), tokens and token logits (encoder),
            two rows of tokens (encoder_decoder), tokens and hidden states (hidden), images and classes (image).
        config: Arguments of the family's config class.
        gain: Standard deviation of a weight matrix times the root of its fan-in.
        gains: The same of the matrices whose names have such a part.
        embedding_std: Standard deviation of the embeddings, smaller where the family multiplies them.
        norm_center: What the norms' weights lie around: 0 where the family adds one to them.
        long_rows: Length of an additional batch, where the family treats long rows otherwise; 0 for none.
    """

    model_type: str
    architecture: str
    kind: Kind
    config: dict[str, Any]
    gain: float = 1.4
    gains: dict[str, float] = dataclasses.field(default_factory=dict)
    embedding_std: float = 0.4
    norm_center: float = 1.0
    long_rows: int = 0


TOKENS = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
DECODER = TOKENS | {
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LENGTH,
    "tie_word_embeddings": False,
}
ENCODER = TOKENS | {
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_LENGTH,
}
BERT = ENCODER | {"type_vocab_size": 3}
TWO_STACKS = TOKENS | {
    "d_model": 40,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 52,
    "decoder_ffn_dim": 52,
    "max_position_embeddings": MAX_LENGTH,
    "forced_eos_token_id": None,
}
# With a tied head and cross-attention a random model repeats one token for ever, unless its MLPs outweigh the rest.
SENSITIVE = {
    "v_proj": 0.3,
    ".v.": 0.3,
    "out_proj": 0.8,
    ".o.": 0.8,
    "fc": 4.0,
    "DenseReluDense": 4.0,
    ".q.": 0.7,
    ".k.": 0.7,
}
T5 = TOKENS | {
    "d_model": 40,
    "d_kv": 12,
    "d_ff": 52,
    "num_layers": 3,
    "num_decoder_layers": 2,  # with more than num_layers `transformers` cannot generate
    "num_heads": 4,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 24,
    "decoder_start_token_id": PAD,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 4.0, "beta_slow": 1.0} | {
    "original_max_position_embeddings": 64
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.8,
    "short_factor": [1.0, 1.1, 1.3, 1.6],
    "long_factor": [1.2, 2.0, 3.5, 5.0],
    "original_max_position_embeddings": MAX_LENGTH,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
MODERNBERT_ROPE = GEMMA3_ROPE | {"full_attention": {"rope_type": "default", "rope_theta": 16000.0}}


def causal(model_type: str, architecture: str, *, long_rows: int = 0, **config) -> Reference:
    """A decoder of the common size, changed by `config`."""
    return Reference(model_type, architecture, "decoder", DECODER | config, long_rows=long_rows)


def gemma(model_type: str, architecture: str, **config) -> Reference:
    """A decoder whose norms add one to their weights, and whose embeddings, tied, grow by the root of d_model."""
    config = DECODER | {"head_dim": 12, "tie_word_embeddings": True} | config
    return Reference(model_type, architecture, "decoder", config, embedding_std=0.08, norm_center=0.0)


REFERENCES = {
    "gpt2": Reference(
        "gpt2",
        "GPT2LMHeadModel",
        "decoder",
        TOKENS | {"n_embd": 40, "n_layer": 2, "n_head": 4, "n_inner": 52, "n_positions": MAX_LENGTH},
    ),
    "llama": causal("llama", "LlamaForCausalLM", head_dim=12),
    "llama3": causal("llama", "LlamaForCausalLM", head_dim=12, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "llama_yarn": causal("llama", "LlamaForCausalLM", head_dim=16, rope_parameters=YARN_ROPE),
    "mistral": causal("mistral", "MistralForCausalLM", head_dim=12, sliding_window=8),
    "qwen2": causal(
        "qwen2",
        "Qwen2ForCausalLM",
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    "qwen3": causal("qwen3", "Qwen3ForCausalLM", head_dim=12),
    "gemma": gemma("gemma", "GemmaForCausalLM", num_key_value_heads=1),
    "gemma2": gemma(
        "gemma2",
        "Gemma2ForCausalLM",
        num_hidden_layers=3,
        sliding_window=8,
        query_pre_attn_scalar=17,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0,
    ),
    "gemma3_text": gemma(
        "gemma3_text",
        "Gemma3ForCausalLM",
        num_hidden_layers=4,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=17,
        rope_parameters=GEMMA3_ROPE,
    ),
    "phi3": causal(
        "phi3",
        "Phi3ForCausalLM",
        sliding_window=8,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.8},
    ),
    "phi3_longrope": causal(
        "phi3",
        "Phi3ForCausalLM",
        long_rows=MAX_LENGTH + 13,
        max_position_embeddings=2 * MAX_LENGTH,
        original_max_position_embeddings=MAX_LENGTH,
        rope_parameters=LONG_ROPE,
    ),
    "olmo2": causal("olmo2", "Olmo2ForCausalLM"),
    "gpt_neox": Reference(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        "decoder",
        {key: value for key, value in DECODER.items() if key != "num_key_value_heads"}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4}},
    ),
    "mixtral": causal(
        "mixtral",
        "MixtralForCausalLM",
        head_dim=12,
        intermediate_size=28,
        num_local_experts=5,
        num_experts_per_tok=2,
        sliding_window=8,
    ),
    "qwen3_moe": causal(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_hidden_layers=3,
        head_dim=12,
        moe_intermediate_size=28,
        num_experts=6,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        mlp_only_layers=[0],
    ),
    "deepseek_v3": causal(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        num_hidden_layers=3,
        num_key_value_heads=4,
        q_lora_rank=20,
        kv_lora_rank=14,
        qk_nope_head_dim=10,
        qk_rope_head_dim=6,
        v_head_dim=8,
        first_k_dense_replace=1,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=3,
        moe_intermediate_size=20,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        rope_parameters=YARN_ROPE | {"mscale": 0.7, "mscale_all_dim": 1.3},
    ),
    "bert": Reference("bert", "BertForPreTraining", "encoder", BERT),
    "bert_model": Reference("bert", "BertModel", "hidden", BERT),
    "roberta": Reference(
        "roberta",
        "RobertaForMaskedLM",
        "encoder",
        ENCODER | {"type_vocab_size": 1, "max_position_embeddings": MAX_LENGTH + PAD + 1},
    ),
    "modernbert": Reference(
        "modernbert",
        "ModernBertForMaskedLM",
        "encoder",
        ENCODER
        | {
            "num_hidden_layers": 4,
            "cls_token_id": BOS,
            "sep_token_id": EOS,
            "local_attention": 9,
            "rope_parameters": MODERNBERT_ROPE,
        },
    ),
    "marian": Reference(
        "marian",
        "MarianMTModel",
        "encoder_decoder",
        TWO_STACKS | {"activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": PAD},
        gains=SENSITIVE,
        embedding_std=0.2,
    ),
    "t5": Reference("t5", "T5ForConditionalGeneration", "encoder_decoder", T5, gains=SENSITIVE, embedding_std=0.5),
    "t5_v1_1": Reference(
        "t5",
        "T5ForConditionalGeneration",
        "encoder_decoder",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        gain=0.9,
    ),
    "bart": Reference(
        "bart",
        "BartForConditionalGeneration",
        "encoder_decoder",
        TWO_STACKS | {"decoder_start_token_id": EOS},
        gains=SENSITIVE,
    ),
    "vit": Reference(
        "vit",
        "ViTForImageClassification",
        "image",
        {
            "hidden_size": 40,
            "intermediate_size": 52,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 12,
            "patch_size": 4,
            "num_channels": 3,
            "num_labels": NUM_CLASSES,
        },
    ),
}

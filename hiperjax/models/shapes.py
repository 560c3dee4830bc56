"""Published architectures by name: for plans, traces and speed tests without their weights."""

from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.rope import RopeScaling


def _qwen25(
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    *,
    head_dim: int,
    vocab_size: int,
    tie_embeddings: bool,
) -> TransformerConfig:
    """Instruction-tuned Qwen2.5."""
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope_theta=1_000_000.0,
        tie_embeddings=tie_embeddings,
    )


def _qwen3(
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    *,
    tie_embeddings: bool,
) -> TransformerConfig:
    """Post-trained Qwen3: 8 key-value heads of 128 at every size."""
    return TransformerConfig(
        vocab_size=151_936,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=1_000_000.0,
        tie_embeddings=tie_embeddings,
        qkv_bias=False,
        qk_norm=True,
        max_position=40_960,
    )


def _smollm2(
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    *,
    rope_theta: float,
) -> TransformerConfig:
    """Instruction-tuned SmolLM2: the Llama family with heads of 64 and tied embeddings."""
    return TransformerConfig(
        vocab_size=49_152,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=64,
        rope_theta=rope_theta,
        norm_eps=1e-5,
        qkv_bias=False,
        max_position=8192,
    )


LLAMA32_ROPE = RopeScaling("llama3", 32.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
"""Of Llama 3.2: 8,192 tokens stretched to 131,072."""

SHAPES: dict[str, TransformerConfig] = {
    "qwen2.5-0.5b": _qwen25(
        896, 4864, 24, 14, 2, head_dim=64, vocab_size=151_936, tie_embeddings=True
    ),
    "qwen2.5-1.5b": _qwen25(
        1536, 8960, 28, 12, 2, head_dim=128, vocab_size=151_936, tie_embeddings=True
    ),
    "qwen2.5-3b": _qwen25(
        2048, 11_008, 36, 16, 2, head_dim=128, vocab_size=151_936, tie_embeddings=True
    ),
    "qwen2.5-7b": _qwen25(
        3584, 18_944, 28, 28, 4, head_dim=128, vocab_size=152_064, tie_embeddings=False
    ),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tie_embeddings=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tie_embeddings=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, tie_embeddings=True),
    "qwen3-8b": _qwen3(4096, 12_288, 36, 32, tie_embeddings=False),
    "smollm2-135m": _smollm2(576, 1536, 30, 9, 3, rope_theta=100_000.0),
    "smollm2-360m": _smollm2(960, 2560, 32, 15, 5, rope_theta=100_000.0),
    "smollm2-1.7b": _smollm2(2048, 8192, 24, 32, 32, rope_theta=130_000.0),
    "llama-3.2-1b": TransformerConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        rope_theta=500_000.0,
        rope_scaling=LLAMA32_ROPE,
        norm_eps=1e-5,
        qkv_bias=False,
        max_position=131_072,
    ),
}

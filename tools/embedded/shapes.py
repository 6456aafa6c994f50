"""The two shapes that are trained."""

from transformers import LlamaConfig

from embedded.tokenizer import VOCABULARY

CONTEXT = 2048


def _llama(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=mlp,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
    )


SHAPES = {
    "embedded": _llama(hidden=256, layers=8, heads=4, kv_heads=2, mlp=768),
    "embedded-draft": _llama(hidden=128, layers=2, heads=2, kv_heads=1, mlp=320),
}

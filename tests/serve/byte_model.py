"""A tokenizer whose ids are bytes, so that every character can be cut."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# With tools it asks for calls as Hermes and Qwen write them.
TEMPLATE = """\
{% if tools %}{{ tools | tojson }}
<tool_call>{"name": ..., "arguments": ...}</tool_call>
{% endif %}\
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}\
{% if mood %}mood: {{ mood }}
{% endif %}"""


def save(folder: Path) -> Path:
    """Write `tokenizer.json` and a chat template into `folder`."""
    tokenizer = Tokenizer(
        models.BPE(vocab={char: byte for byte, char in _letters().items()}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _letters() -> dict[int, str]:
    """GPT-2's map of bytes to printable characters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }

"""The embedded model's tokenizer at another vocabulary size."""

from __future__ import annotations

import json
from typing import Any

from penstock import models

LEAST = 257  # the end-of-text token, and one token for each byte


def tokenizer(size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of `tokenizer.json` and `tokenizer_config.json` for `size` tokens.

    A larger vocabulary gets tokens that no merge leads to: no text is encoded
    to them, but each decodes to a word of its own. A smaller one keeps the
    earliest merges. Raises `ValueError` for one that cannot spell every byte.
    """
    if size < LEAST:
        raise ValueError(
            f"vocab={size} cannot spell every byte; {LEAST} is the least (256 and the end of text)."
        )
    source = models.path("embedded")
    content = json.loads((source / "tokenizer.json").read_bytes())
    settings = json.loads((source / "tokenizer_config.json").read_bytes())
    model = content["model"]
    vocab = {token: id_ for token, id_ in model["vocab"].items() if id_ < size}
    vocab |= {f"Ġ<{id_}>": id_ for id_ in range(len(model["vocab"]), size)}
    model["vocab"] = vocab
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in vocab]
    return content, settings

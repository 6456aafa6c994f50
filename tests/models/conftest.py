"""The shipped checkpoints as a user's own tools would load them."""

from typing import Any

import pytest

from penstock import models

torch = pytest.importorskip("torch", reason="needs the engine extra")
transformers = pytest.importorskip("transformers", reason="needs the dev extra")


@pytest.fixture(scope="session")
def model() -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(
        models.path("embedded"), dtype=torch.float32
    )


@pytest.fixture(scope="session")
def draft() -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(
        models.path("embedded-draft"), dtype=torch.float32
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(models.path("embedded"))

"""Finding a model's folder by name."""

from pathlib import Path

import pytest

from penstock import models


def test_shipped_models_by_name() -> None:
    assert set(models.SHIPPED) == {"embedded", "embedded-draft"}
    for name in models.SHIPPED:
        assert (models.path(name) / "model.safetensors").is_file()


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert models.path(str(tmp_path)) == tmp_path


def test_anything_else_is_refused_with_what_exists() -> None:
    with pytest.raises(ValueError, match=r"'qwen9'.*embedded, embedded-draft"):
        models.path("qwen9")


def test_all_shipped_files_are_at_most_24_megabytes() -> None:
    folder = models.path("embedded").parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 24e6

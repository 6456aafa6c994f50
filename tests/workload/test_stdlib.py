"""The standard library as a corpus: what belongs to it, and which split it falls in."""

import ast

import pytest

from penstock.workload import stdlib

NAMES = {name for name, _ in stdlib.modules()}


def test_finds_modules_packages_and_submodules() -> None:
    assert {"argparse", "json", "json.decoder", "email.mime.text"} <= NAMES


def test_leaves_out_tests_generated_tables_and_what_was_installed() -> None:
    assert not any(name.startswith(("test.", "encodings.", "pydoc_data.")) for name in NAMES)
    assert not {"pytest", "torch", "numpy", "pip"} & {name.split(".")[0] for name in NAMES}
    assert not any("site-packages" in str(path) for _, path in stdlib.modules(tests=True))


def test_tests_are_added_on_request() -> None:
    pytest.importorskip("test.support", reason="this interpreter comes without its tests")
    with_tests = {name for name, _ in stdlib.modules(tests=True)}
    assert with_tests > NAMES
    assert "test.test_argparse" in with_tests


def test_the_split_never_moves() -> None:
    # Written down once: a change here would put trained text into the held-out set.
    names = ("json", "random", "uuid", "trace", "types", "argparse", "asyncio.tasks", "heapq")
    assert [stdlib.is_held_out(name) for name in names] == [True] * 5 + [False] * 3


def test_splits_are_disjoint_complete_and_about_one_in_twenty() -> None:
    train = dict(stdlib.texts("train"))
    held_out = dict(stdlib.texts("held_out"))
    assert not train.keys() & held_out.keys()
    assert train.keys() | held_out.keys() <= NAMES
    assert 0.02 < len(held_out) / (len(train) + len(held_out)) < 0.10


def test_held_out_texts_are_python() -> None:
    for name, text in stdlib.texts("held_out"):
        ast.parse(text, filename=name)


def test_a_distribution_without_tests_and_with_strange_files(tmp_path, monkeypatch) -> None:
    (tmp_path / "plain.py").write_text("x = 1\n")
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    (tmp_path / "json" / "data").mkdir(parents=True)
    (tmp_path / "json" / "__init__.py").write_text("y = 2\n")
    (tmp_path / "json" / "data" / "not_a_module.py").write_text("print 'python 2'\n")
    (tmp_path / "site-packages" / "other").mkdir(parents=True)
    (tmp_path / "site-packages" / "other" / "__init__.py").write_text("z = 3\n")
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda _: str(tmp_path))
    found = {name for name, _ in stdlib.modules(tests=True)}
    assert found == {"plain", "empty", "latin", "json"}
    texts = dict(stdlib.texts("train")) | dict(stdlib.texts("held_out"))
    assert texts == {"plain": "x = 1\n", "json": "y = 2\n"}

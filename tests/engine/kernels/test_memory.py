"""Memory that is lent: never to two at once, and again when it is back."""

from __future__ import annotations

import pytest
import torch

from penstock.engine.kernels.native import library, memory


@pytest.fixture(autouse=True)
def _compiled() -> None:
    try:
        library.library()
    except library.NotHere as why:
        pytest.skip(str(why))


def test_what_is_in_use_is_not_lent_again() -> None:
    held = [memory.lend(3 << 20).fill_(number) for number in range(4)]
    rows = held[1].view(torch.float32).view(3, -1)[1:]  # a part holds the whole
    where = held[1].data_ptr()
    del held[1]
    others = [memory.lend(3 << 20).fill_(9) for _ in range(3)]
    assert where not in {other.data_ptr() for other in others}
    assert rows.view(torch.uint8).eq(1).all()
    assert held[0].eq(0).all()
    assert held[1].eq(2).all()
    del rows
    assert memory.lend(3 << 20).data_ptr() == where


def test_a_larger_piece_is_a_new_one_and_small_ones_are_anybodys() -> None:
    small, large = memory.lend(2 << 20), memory.lend(40 << 20)
    assert (len(small), len(large), len(memory.lend(100))) == (2 << 20, 40 << 20, 100)
    where = large.data_ptr()
    del small, large  # the one that came back last is lent first
    again = memory.lend(30 << 20)
    assert (again.data_ptr(), len(again)) == (where, 30 << 20)
    assert where % (2 << 20) == 0

"""Which page holds the K and V of which prefix: a radix tree whose nodes are pages."""

from __future__ import annotations

from collections.abc import Hashable, KeysView

ROOT = -1


class PrefixIndex:
    """A tree over pages: an edge from a parent page to a child page carries a key.

    Keys are opaque: a hash of the page's tokens, a trace's block id. A path
    from the root spells a prefix, so equal keys under different parents are
    different pages. The index holds no page: the pool says which still exist
    and forgets descendants before their ancestors.
    """

    def __init__(self) -> None:
        self._child: dict[tuple[int, Hashable], int] = {}
        self._edge: dict[int, tuple[int, Hashable]] = {}

    def __contains__(self, page: int) -> bool:
        return page in self._edge

    @property
    def pages(self) -> KeysView[int]:
        """The pages it knows; a live view."""
        return self._edge.keys()

    def __len__(self) -> int:
        return len(self._edge)

    def find(self, parent: int, key: Hashable) -> int | None:
        """Return the page that follows `parent` (or `ROOT`) under `key`, if known."""
        return self._child.get((parent, key))

    def insert(self, parent: int, key: Hashable, page: int) -> None:
        """Add a page below `parent`; the edge must be new."""
        edge = (parent, key)
        if edge in self._child or page in self._edge:
            raise RuntimeError(f"page {page} or its edge {edge} is indexed already")
        self._child[edge] = page
        self._edge[page] = edge

    def forget(self, page: int) -> None:
        """Remove a page whose descendants are gone already."""
        del self._child[self._edge.pop(page)]

    def clear(self) -> None:
        """Forget everything."""
        self._child.clear()
        self._edge.clear()

    def check(self) -> None:
        """Raise `AssertionError` if the two directions differ or a page hangs in the air."""
        assert {edge: page for page, edge in self._edge.items()} == self._child
        for parent, _ in self._child:
            assert parent == ROOT or parent in self._edge, f"page {parent} was orphaned"

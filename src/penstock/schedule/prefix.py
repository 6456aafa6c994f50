"""Which page holds the K and V of which prefix: a radix tree whose nodes are pages."""

from __future__ import annotations

from collections.abc import Hashable, KeysView

ROOT = -1


class PrefixIndex:
    """A tree over pages: an edge from a parent page to a child page carries a key.

    Keys are opaque: a hash of the page's tokens, a trace's block id. A path
    from the root spells a prefix, so equal keys under different parents are
    different pages. The index holds no page: the pool says which still exist.

    A node is known by a number that never comes again, not by its page. So if a page is
    forgotten before its descendants, as happens where sequences give up pages, nothing
    finds those any more, even when the page holds something else.
    """

    def __init__(self) -> None:
        self._child: dict[tuple[int, Hashable], int] = {}  # by node and key
        self._edge: dict[int, tuple[int, Hashable]] = {}  # by page
        self._node: dict[int, int] = {ROOT: ROOT}  # by page
        self._nodes = 0

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
        return self._child.get((self._node[parent], key))

    def insert(self, parent: int, key: Hashable, page: int) -> None:
        """Add a page below `parent`; the edge must be new."""
        edge = (self._node[parent], key)
        if edge in self._child or page in self._edge:
            raise RuntimeError(f"page {page} or its edge {edge} is indexed already")
        self._child[edge] = page
        self._edge[page] = edge
        self._node[page] = self._nodes
        self._nodes += 1

    def forget(self, page: int) -> None:
        """Remove a page."""
        del self._child[self._edge.pop(page)]
        del self._node[page]

    def clear(self) -> None:
        """Forget everything."""
        self._child.clear()
        self._edge.clear()
        self._node = {ROOT: ROOT}

    def check(self, *, whole: bool = True) -> None:
        """Raise `AssertionError` if directions differ or, being `whole`, a page has no parent."""
        assert {edge: page for page, edge in self._edge.items()} == self._child
        assert self._node.keys() - {ROOT} == self._edge.keys()
        known = set(self._node.values())
        for node, _ in self._child:
            assert not whole or node in known, f"children of node {node} were orphaned"

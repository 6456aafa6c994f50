"""Which page holds the K and V of which prefix: a radix tree whose nodes are pages."""

from __future__ import annotations

from collections.abc import Hashable, KeysView

ROOT = -1


class PrefixIndex:
    """A tree over pages: an edge from a parent page to a child page carries a key.

    Keys are opaque: a hash of the page's tokens, a trace's block id. A path
    from the root spells a prefix, so equal keys under different parents are
    different pages. The index holds no page: the pool says which still exist.

    Descendants are forgotten before their ancestors. Where sequences give up pages, `gaps`,
    that may not be so: there a page that is forgotten has another name from then on, so that
    whatever still hangs below its old one is not found when it holds something else.
    """

    def __init__(self, *, gaps: bool = False) -> None:
        self._child: dict[tuple[int, Hashable], int] = {}
        self._edge: dict[int, tuple[int, Hashable]] = {}
        self._gaps = gaps
        self._names: dict[int, int] = {}  # of pages as parents, where not their own numbers
        self._name = ROOT

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
        if self._names:
            parent = self._names.get(parent, parent)
        return self._child.get((parent, key))

    def insert(self, parent: int, key: Hashable, page: int) -> None:
        """Add a page below `parent`; the edge must be new."""
        edge = (self._names.get(parent, parent), key)
        if edge in self._child or page in self._edge:
            raise RuntimeError(f"page {page} or its edge {edge} is indexed already")
        self._child[edge] = page
        self._edge[page] = edge

    def forget(self, page: int) -> None:
        """Remove a page."""
        del self._child[self._edge.pop(page)]
        if self._gaps:
            self._name -= 1
            self._names[page] = self._name

    def clear(self) -> None:
        """Forget everything."""
        self._child.clear()
        self._edge.clear()

    def check(self) -> None:
        """Raise `AssertionError` if the directions differ, or without gaps a page has no parent."""
        assert {edge: page for page, edge in self._edge.items()} == self._child
        known = {ROOT, *self._edge}
        for parent, _ in self._child:
            assert self._gaps or parent in known, f"page {parent} was orphaned"

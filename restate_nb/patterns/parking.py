"""The operations that wait, and what each of them waits for.

What the native core is to wait for is kept from one wait to the next, and who can go on is asked in one go: both cost
a fraction of a microsecond for an operation that has nothing to do.
"""

from __future__ import annotations

from typing import Any

from restate_nb.patterns.fibre import Fibre
from restate_nb.patterns.sdk import SingleUnresolvedFuture, Tree, Wiring, unresolved


class Parking:
    """Operations in the order in which they parked, by what they wait for.

    Most wait for one result; those are found by its handle. The others (a gather, a select) are looked at one by one.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._since = 0
        self._parked: dict[Fibre, tuple[int, Tree]] = {}  # since when, in order
        self._by_handle: dict[int, list[Fibre]] = {}
        self._nodes: dict[int, Any] = {}  # what the core takes for a handle
        self._others: dict[Fibre, Any] = {}  # what it takes for anything else

    def __bool__(self) -> bool:
        return bool(self._parked)

    def add(self, fibre: Fibre, tree: Tree) -> None:
        """Park an operation."""
        self._since += 1
        self._parked[fibre] = self._since, tree
        self._place(fibre, tree)

    def _place(self, fibre: Fibre, tree: Tree) -> None:
        if isinstance(tree, SingleUnresolvedFuture):
            fibres = self._by_handle.setdefault(tree.handle, [])
            if not fibres:
                self._nodes[tree.handle] = self._wiring.node(tree)
            fibres.append(fibre)
        else:
            self._others[fibre] = self._wiring.node(tree)

    def remove(self, fibre: Fibre) -> bool:
        """Take an operation out; false if it is not parked."""
        found = self._parked.pop(fibre, None)
        if found is None:
            return False
        tree = found[1]
        if not isinstance(tree, SingleUnresolvedFuture):
            del self._others[fibre]
            return True
        fibres = self._by_handle[tree.handle]
        fibres.remove(fibre)
        if not fibres:
            del self._by_handle[tree.handle], self._nodes[tree.handle]
        return True

    def nodes(self) -> list[Any]:
        """What the core is to wait for, on behalf of all."""
        return [*self._nodes.values(), *self._others.values()]

    def wake(self) -> tuple[list[Fibre], bool]:
        """Take out those that can go on, in the order in which they parked; and whether anything has changed.

        What is resolved may be taken by another operation, and would then look unresolved again: so what is left to
        wait for is kept.
        """
        woken = [fibre for handle in self._wiring.completed_of(self._by_handle) for fibre in self._by_handle[handle]]
        changed = bool(woken)
        for fibre in list(self._others):
            since, tree = self._parked[fibre]
            left = unresolved(tree, self._wiring.completed)
            if left is None:
                woken.append(fibre)
            elif left is not tree:
                del self._others[fibre]
                self._parked[fibre] = since, left
                self._place(fibre, left)
            changed = changed or left is not tree
        woken.sort(key=lambda fibre: self._parked[fibre][0])
        for fibre in woken:
            self.remove(fibre)
        return woken, changed

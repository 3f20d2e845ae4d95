"""Sums in an order that depends on the number of their terms alone.

The sum of floating-point numbers depends on the order of the additions. Here the order is a tree
over all terms: a process that owns a block of neighbouring terms adds up the nodes inside of its
block, and the rest of the tree adds up these nodes. However the terms are divided among processes,
the same pairs of numbers are added.
"""

import functools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

Span = tuple[int, int]
"""A node of a tree: its first term, and the term after its last one."""


class Tree:
    """The order of the additions of a number of terms.

    The terms are divided into 2 halves if their number is even, or else into as many parts as its
    smallest divisor; each part is a tree of its own. The parts are added from left to right.

    Args:
        terms: the number of terms.
    """

    def __init__(self, terms: int) -> None:
        self.root: Span = (0, terms)
        self._parents: dict[Span, Span] = {}
        self._grow(self.root)

    def _grow(self, node: Span) -> None:
        start, stop = node
        terms = stop - start
        if terms == 1:
            return
        parts = next(number for number in range(2, terms + 1) if terms % number == 0)
        for first in range(start, stop, terms // parts):
            child = (first, first + terms // parts)
            self._parents[child] = node
            self._grow(child)

    def parent(self, node: Span) -> Span | None:
        """Return the node that a node is a part of; ``None`` for the root."""
        return self._parents.get(node)

    def nodes(self, block: Span) -> list[Span]:
        """Return the largest nodes inside of a block of terms, from left to right."""
        found: Sum[list[Span]] = Sum(self, block, lambda one, other: [])
        for term in range(*block):
            found.add((term, term + 1), [])
        return sorted(found.nodes)


class Sum(Generic[T]):
    """The sum of a block of terms, as far as a tree allows it: the sums of its largest nodes.

    Args:
        tree: the tree.
        block: the first term, and the term after the last one.
        add: a function that returns the sum of two values; it may change the first one.

    Attributes:
        nodes: the sums of the largest nodes inside of the block that are complete.
    """

    def __init__(self, tree: Tree, block: Span, add: Callable[[T, T], T]) -> None:
        self.nodes: dict[Span, T] = {}
        self._tree = tree
        self._block = block
        self._add = add
        self._begun: dict[Span, T] = {}

    def add(self, node: Span, value: T) -> None:
        """Add the value of a node, after those on its left."""
        start, stop = self._block
        parent = self._tree.parent(node)
        while parent is not None and start <= parent[0] and parent[1] <= stop:
            if node[0] != parent[0]:
                value = self._add(self._begun.pop(parent), value)
            if node[1] != parent[1]:
                self._begun[parent] = value
                return
            node, parent = parent, self._tree.parent(parent)
        self.nodes[node] = value


@functools.cache
def tree_of(terms: int) -> Tree:
    """Return the tree over this number of terms."""
    return Tree(terms)


def total(terms: list[T], add: Callable[[T, T], T]) -> T:
    """Return the sum of all terms in the order of their tree.

    Args:
        terms: the terms, at least one.
        add: a function that returns the sum of two values; it may change the first one.
    """
    tree = tree_of(len(terms))
    sums: Sum[T] = Sum(tree, tree.root, add)
    for number, term in enumerate(terms):
        sums.add((number, number + 1), term)
    return sums.nodes[tree.root]

"""Sums over a tree: the same bits, however the terms are divided among processes."""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.core.exchange import Exchange
from helios.core.tree import Span, Sum, Tree, total, tree_of

Terms = list[list[torch.Tensor | None]]


def text_of(tree: Tree, node: Span) -> str:
    """Return a node as the additions that it stands for."""
    children = [child for child in all_nodes(tree) if tree.parent(child) == node]
    return f"({'+'.join(text_of(tree, child) for child in children)})" if children else str(node[0])


def all_nodes(tree: Tree) -> list[Span]:
    start, stop = tree.root
    spans = itertools.combinations(range(start, stop + 1), 2)
    return [span for span in spans if span == tree.root or tree.parent(span) is not None]


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (1, "0"),
        (2, "(0+1)"),
        (3, "(0+1+2)"),
        (4, "((0+1)+(2+3))"),
        (6, "((0+1+2)+(3+4+5))"),
        (8, "(((0+1)+(2+3))+((4+5)+(6+7)))"),
    ],
)
def test_order(terms: int, text: str) -> None:
    assert text_of(Tree(terms), (0, terms)) == text
    written = total([str(term) for term in range(terms)], lambda one, other: f"{one}+{other}")
    assert written == text.replace("(", "").replace(")", "")


@st.composite
def divisions(draw: Any, largest: int = 24) -> tuple[int, int]:
    """Draw a number of terms, and a number of processes that divides it."""
    terms = draw(st.integers(1, largest))
    return terms, draw(st.sampled_from([each for each in range(1, terms + 1) if terms % each == 0]))


@given(divisions())
def test_blocks_consist_of_nodes(division: tuple[int, int]) -> None:
    terms, processes = division
    tree, own = tree_of(terms), terms // processes
    nodes = [node for start in range(0, terms, own) for node in tree.nodes((start, start + own))]
    assert [nodes[0][0], nodes[-1][1]] == [0, terms]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(nodes))
    whole: Sum[str] = Sum(tree, tree.root, lambda one, other: f"({one} {other})")
    for node in nodes:
        whole.add(node, f"{node}")
    assert list(whole.nodes) == [tree.root]


class Together:
    """The collectives of processes that are threads here."""

    def __init__(self, processes: int) -> None:
        self.barrier = threading.Barrier(processes, timeout=20)
        self.boxes: list[torch.Tensor] = [torch.empty(0)] * processes

    def transport(self, rank: int) -> Any:
        together = self

        class Transport:
            def scatter(self, sent: torch.Tensor, received: torch.Tensor) -> None:
                count = len(together.boxes)
                together.exchange(
                    rank, sent, received.view(count, -1), lambda box: box.view(count, -1)[rank]
                )

            def gather(self, sent: torch.Tensor, received: torch.Tensor) -> None:
                together.exchange(
                    rank, sent, received.view(len(together.boxes), -1), lambda box: box
                )

        return Transport()

    def exchange(
        self,
        rank: int,
        sent: torch.Tensor,
        received: torch.Tensor,
        part: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.boxes[rank] = sent
        self.barrier.wait()
        for target, box in zip(received, self.boxes, strict=True):
            target.copy_(part(box))
        self.barrier.wait()


def exchanged(terms: Terms, processes: int, like: Sequence[torch.Tensor]) -> list[Any]:
    """Return the sums that each of several processes gets."""
    together, own = Together(processes), len(terms) // processes
    results: list[Any] = [None] * processes

    def run(rank: int) -> None:
        tree, block = tree_of(len(terms)), (rank * own, rank * own + own)
        exchange = Exchange(len(terms), rank, processes, together.transport(rank))
        for _ in range(2):  # the buffers of the first exchange are used again
            sums: Sum[list[torch.Tensor | None]] = Sum(tree, block, add)
            for number in range(*block):
                sums.add((number, number + 1), list(terms[number]))
            results[rank] = [each.clone() for each in exchange.total(sums.nodes, like)]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def add(
    ones: list[torch.Tensor | None], others: list[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    return [
        one if other is None else other if one is None else one + other
        for one, other in zip(ones, others, strict=True)
    ]


def bits(tensors: Sequence[torch.Tensor | None]) -> list[bytes | None]:
    """Return the bytes of tensors, which tell 0.0 from -0.0."""
    return [
        None if each is None else each.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        for each in tensors
    ]


@settings(max_examples=40, deadline=None)
@given(divisions(12), st.integers(0, 2**32 - 1))
def test_exchange_gives_the_bits_of_one_process(division: tuple[int, int], seed: int) -> None:
    count, processes = division
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 10 ** torch.randn(1, generator=generator)

    like = [numbers(7, 3), numbers(33).bfloat16(), torch.tensor(5), numbers(1).double(), numbers(2)]
    terms: Terms = [
        [
            numbers(7, 3),
            numbers(33).bfloat16(),
            torch.tensor(number),
            numbers(1).double(),
            None if (number + seed) % 3 else torch.tensor([-0.0, float("nan")]),
        ]
        for number in range(count)
    ]
    expected = total([list(term) for term in terms], add)
    given_terms = bits(expected)
    for result in exchanged(terms, processes, like):
        of_result = bits(result)
        if expected[-1] is None:  # nobody has given it
            of_result[-1] = None
        assert of_result == given_terms


def test_the_order_matters() -> None:
    """Otherwise, the test above would prove nothing."""
    terms = [torch.tensor(number) for number in (1.0, 1e-8, -1.0, 3e-8)]
    in_tree = total([term.clone() for term in terms], torch.Tensor.add_)
    assert in_tree != sum(terms)

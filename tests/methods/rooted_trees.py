"""Rooted trees and what an order condition says of each (Butcher; Hairer, Norsett & Wanner I, II.2).

A tree is the sorted tuple of its root's subtrees; () is a single node.
"""

from math import prod

import numpy as np

Tree = tuple["Tree", ...]


def trees(order: int) -> list[Tree]:
    """All rooted trees with this many nodes: a leaf put on every node of the trees with one node less."""
    if order == 1:
        return [()]
    return sorted({grown for tree in trees(order - 1) for grown in _grafted(tree)})


def _grafted(tree: Tree) -> list[Tree]:
    found = [tuple(sorted((*tree, ())))]
    for i, child in enumerate(tree):
        found += [tuple(sorted((*tree[:i], grown, *tree[i + 1 :]))) for grown in _grafted(child)]
    return found


def size(tree: Tree) -> int:
    return 1 + sum(map(size, tree))


def density(tree: Tree) -> int:
    """gamma: the product of the sizes of all subtrees."""
    return size(tree) * prod(map(density, tree))


def stage_weights(tree: Tree, a: np.ndarray) -> np.ndarray:
    """For each stage the product over the root's subtrees of a times theirs; b times it is the elementary weight."""
    weights = np.ones(len(a), dtype=a.dtype)
    for child in tree:
        weights = weights * (a @ stage_weights(child, a))
    return weights

"""The graph that inductor is given, while tensors in it are taken apart into components: what is known of its nodes,
and the machinery that `components` uses with a rule for each operation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.node import map_arg

aten = torch.ops.aten

#: most components of a tensor that is held as such
MOST = 16

#: the components of a tensor, nodes of shape (lead,), in an array of its shape without the lead
Rows = NDArray[np.object_]
#: gives the components of a node's result (a list, where it is a tuple of tensors), or None
Rule = Callable[["Rewriting", Node], "Rows | list[Rows] | None"]


def value_of(x: Any) -> Any:
    """Of a node: its fake tensor, or symbolic integer."""
    return x.meta.get("val") if isinstance(x, Node) else x


def trailing(node: Any) -> tuple[int, ...] | None:
    """Shape without the lead of a real tensor; None where there is no lead, or the rest is symbolic."""
    x = value_of(node)
    if not isinstance(x, Tensor) or x.is_complex() or x.ndim == 0:
        return None
    return tuple(x.shape[1:]) if all(isinstance(n, int) for n in x.shape[1:]) else None


def count(shape: tuple[int, ...] | None) -> int:
    """Components of a tensor of this shape without the lead; 0 for one that has none."""
    return 0 if shape is None else prod(shape)


def arguments_of(node: Node) -> dict[str, Any]:
    """Arguments of an operation by their names, with defaults."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in node.target._schema.arguments}  # type: ignore[union-attr]


def dims_of(dims: Any, rank: int) -> list[int]:
    """Dimensions counted from the front."""
    return [d % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])]


def filled(shape: tuple[int, ...], component: Callable[[tuple[int, ...]], Node]) -> Rows:
    """The array with these entries."""
    rows = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        rows[index] = component(index)
    return rows


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are known to be equal, without a guard."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # takes a third of a second to load

    return bool(statically_known_true(a == b))


class Rewriting:
    """Of one graph. ``rows`` : which nodes are held as components; those of an unbound one are a list. ``made`` : the
    new nodes, each once: nothing is written to while the graph runs, as inductor has made it functional. ``rules`` :
    for operations, what makes the components of their results; ``elementwise`` : the one of all others that are."""

    def __init__(self, graph: Graph, rules: dict[Any, Rule], elementwise: Rule) -> None:
        self.graph, self.rules, self.elementwise = graph, rules, elementwise
        self.rows: dict[Node, Rows | list[Rows]] = {}
        self.made: dict[Any, Node] = {}
        values = map(value_of, graph.nodes)
        self.mode: FakeTensorMode = next(x.fake_mode for x in values if hasattr(x, "fake_mode"))
        for node in graph.nodes:
            if node.op == "get_attr" and "val" not in node.meta:
                constant = getattr(graph.owning_module, node.target, None)
                if isinstance(constant, Tensor):
                    node.meta["val"] = self.mode.from_tensor(constant)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                found = self.components(node)
                if found is None:
                    node.args = map_arg(node.args, self.whole)
                    node.kwargs = map_arg(node.kwargs, self.whole)
                elif isinstance(found, np.ndarray) and found.ndim == 0:
                    node.replace_all_uses_with(found.item())
                else:
                    self.rows[node] = found
        self.graph.eliminate_dead_code()
        self.graph.lint()

    def components(self, node: Node) -> Rows | list[Rows] | None:
        """Of the node's result, if it is to be held so."""
        if node.op != "call_function":
            return None
        if node.target is operator.getitem:
            parts = self.rows.get(node.args[0])  # type: ignore[arg-type]
            return parts[node.args[1]] if isinstance(parts, list) else None  # type: ignore[index]
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        if node.target in (aten.sym_size.int, aten.sym_numel.default):
            return self.size(node)
        rule = self.rules.get(node.target)
        if rule is None and torch.Tag.pointwise in node.target.tags:
            rule = self.elementwise
        found = None if rule is None else rule(self, node)
        if isinstance(found, np.ndarray):
            return found if self.fits(found, node) else None
        return found

    # ---- nodes

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A new node here, or the one that was made of the same arguments."""
        key = target, repr(args), repr(kwargs)  # names of nodes are their own
        if key not in self.made:
            node = self.graph.call_function(target, args, kwargs)
            inputs, named = map_arg((args, kwargs), value_of)
            with self.mode, enable_python_dispatcher():
                node.meta["val"] = target(*inputs, **named)
            self.made[key] = node
        return self.made[key]

    def fits(self, rows: Rows, node: Node) -> bool:
        """Whether these are the components of the node's result, as far as shapes and kinds tell."""
        whole = value_of(node)
        if not 0 < rows.size <= MOST or rows.shape != tuple(whole.shape[1:]):
            return False
        parts = [value_of(x) for x in rows.flat]
        return all(x.ndim == 1 and x.dtype == whole.dtype and same(x.shape[0], whole.shape[0]) for x in parts)

    def whole(self, node: Node) -> Node:
        """The tensor in one piece: (lead, *shape)."""
        rows = self.held(node)
        if rows is None:
            return node
        columns = [self.call(aten.unsqueeze.default, x, 1) for x in rows.flat]
        flat = columns[0] if len(columns) == 1 else self.call(aten.cat.default, columns, 1)
        return flat if rows.ndim == 1 else self.call(aten.reshape.default, flat, [-1, *rows.shape])

    def held(self, x: Any) -> Rows | None:
        """Components of a node that is held so."""
        rows = self.rows.get(x)
        return rows if isinstance(rows, np.ndarray) else None

    def single(self, x: Any) -> Rows | None:
        """The same, also of a tensor (lead,), which is a component."""
        return filled((), lambda _: x) if trailing(x) == () else self.held(x)

    def split(self, x: Node, rank: int) -> Rows | None:
        """Components of a tensor, as an operand of an operation on tensors of this rank: views of it."""
        held, value = self.held(x), value_of(x)
        if held is not None:
            return held if value.ndim == rank else None
        if value.ndim == 0:
            return filled((), lambda _: x)
        shape = trailing(x) if value.ndim == rank else tuple(value.shape)
        if not 0 < count(shape) <= MOST or not all(isinstance(n, int) for n in shape or ()):
            return None
        assert shape is not None
        if x.target is aten.full.default and value.ndim == rank:
            one = self.call(aten.full.default, [x.args[0][0]], x.args[1], **x.kwargs)  # type: ignore[index]
            return filled(shape, lambda _: one)

        def component(index: tuple[int, ...]) -> Node:
            found = x
            # without a lead, the last dimension is kept as one: 0-d tensors have rules of their own for kinds
            for k in index[:-1] if value.ndim < rank else index:
                found = self.call(aten.select.int, found, 1 if value.ndim == rank else 0, k)
            if value.ndim < rank:
                found = self.call(aten.slice.Tensor, found, 0, index[-1], index[-1] + 1)
            return found

        return filled(shape, component)

    def size(self, node: Node) -> Rows | None:
        """A size of a held tensor, by that of a component."""
        rows = self.held(node.args[0])
        if rows is None or (node.target is aten.sym_size.int and node.args[1] != 0):
            return None
        found = self.call(aten.sym_size.int, rows.flat[0], 0)
        if node.target is aten.sym_numel.default and rows.size > 1:
            found = self.call(operator.mul, found, rows.size)
        return filled((), lambda _: found)

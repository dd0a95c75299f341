"""What networks consist of, in compiled code on the CPU: rewritings of the graph that inductor is given.

**tanh.** Inductor calls a routine for vectors that takes four times as long as what follows. For z = |x|

    tanh x = x + x^3 P(x^2) / Q(x^2)             z < 0.625
    tanh x = sign(x) (1 - 2 / (exp(2 z) + 1))    otherwise

with the minimax polynomials of Moshier's Cephes library (tanhf.c: Q = 1; tanh.c). Both are within two units in the last
place, of float32 and of float64.

**Biases.** The product of a layer and its bias in one call copies the bias to all rows first, a pass over memory of its
own. Added behind the product it is a part of the kernel that comes next.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from sdesolve.compiled.component_graph import value_of

aten = torch.ops.aten
add, mul = aten.add.Tensor, aten.mul.Tensor

#: highest power first
_SINGLE = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
_DOUBLE = (-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3)
_DOUBLE_BELOW = (1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3)


def network_parts() -> Any:
    """The rewritings as a pass of inductor behind its own, which would join a product and its bias again."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class NetworkParts(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            rewrite(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))

    return NetworkParts()


def rewrite(graph: Graph) -> None:
    """Every tanh and every product with a bias, of real numbers in single or double precision."""
    for node in list(graph.nodes):
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is None:
            continue
        value = value_of(node)
        if value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64):
            with graph.inserting_before(node):
                found = rule(_Calls(graph, value.fake_mode), node)
            if found is not None:
                node.replace_all_uses_with(found)
                graph.erase_node(node)


class _Calls:
    """Makes new nodes of a graph."""

    def __init__(self, graph: Graph, mode: Any) -> None:
        self.graph, self.mode = graph, mode

    def __call__(self, target: Any, *args: Any) -> Node:
        node = self.graph.call_function(target, args)
        with self.mode:
            node.meta["val"] = target(*map_arg(args, value_of))
        return node


def _bias(call: _Calls, node: Node) -> Node | None:
    bias, left, right = node.args
    if node.kwargs or value_of(bias).ndim != 1:
        return None
    return call(add, call(aten.mm.default, left, right), bias)


def _tanh(call: _Calls, node: Node) -> Node:
    x, single = node.args[0], value_of(node).dtype == torch.float32

    def polynomial(s: Node, coefficients: tuple[float, ...]) -> Node:
        first, second, *rest = coefficients
        found = call(add, s if first == 1 else call(mul, s, first), second)
        for c in rest:
            found = call(add, call(mul, found, s), c)
        return found

    s = call(mul, x, x)
    series = polynomial(s, _SINGLE if single else _DOUBLE)
    if not single:
        series = call(aten.div.Tensor, series, polynomial(s, _DOUBLE_BELOW))
    near = call(add, x, call(mul, call(mul, series, s), x))
    z = call(aten.abs.default, x)
    grown = call(add, call(aten.exp.default, call(mul, z, 2.0)), 1.0)
    far = call(add, call(mul, call(aten.reciprocal.default, grown), -2.0), 1.0)
    far = call(aten.where.self, call(aten.lt.Scalar, x, 0.0), call(aten.neg.default, far), far)
    return call(aten.where.self, call(aten.lt.Scalar, z, 0.625), near, far)


_RULES = {aten.tanh.default: _tanh, aten.addmm.default: _bias}

"""Small states as component vectors: a rewriting of the graph that inductor is given.

Inductor writes each ``torch.stack`` to memory, (batch, d) with the components side by side, so that nothing vectorises
over the batch, and gives sums over the d components a kernel of their own. Here a tensor (lead, *shape) of few
components is held as its components, d tensors (lead,), from the stack that made it to the ``unbind`` that takes it
apart: elementwise operations act on each of them, views rearrange them, sums over them are written out from left to
right. All that is left is arithmetic on tensors (lead,), which becomes one vectorised kernel. What has no rule here
gets the tensor stacked, once.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from sdesolve.compiled import component_graph
from sdesolve.compiled.component_graph import (
    MOST,
    Rewriting,
    Rows,
    Rule,
    arguments_of,
    count,
    dims_of,
    filled,
    same,
    trailing,
    value_of,
)

aten, prims = torch.ops.aten, torch.ops.prims

#: most multiplications of a product of matrices that is written out
MOST_TERMS = 32
#: most elementwise operations on components
MOST_OPERATIONS = 2000


def component_vectors() -> Any:
    """The rewriting as a pass of inductor, which takes a second to load."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class ComponentVectors(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            rewrite(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__, component_graph.__file__))

    return ComponentVectors()


def rewrite(graph: Graph) -> None:
    """Hold as components what can be held so; a graph with nothing to gain is left as it is."""
    if _gains(graph):
        Rewriting(graph, _RULES, _elementwise).run()


def _gains(graph: Graph) -> bool:
    """Whether components are stacked, and the graph is a chain of small operations: a network that reads the state
    wants it in one piece, so does a function of large tensors within a trajectory, and no node may look at memory
    through strides."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if any(x.target is aten.as_strided.default or (x.target in _PRODUCTS and not _is_small_product(x)) for x in calls):
        return False
    sizes = [_size(x) for x in calls if torch.Tag.pointwise in getattr(x.target, "tags", ())]
    if sum(sizes) > MOST_OPERATIONS or 4 * sum(size > MOST for size in sizes) > len(sizes):
        return False
    return any(node.target in _JOINS and 1 < count(trailing(node)) <= MOST for node in calls)


def _size(node: Node) -> int:
    """Components of a tensor; more than can be held where the batch does not stand in front, as what is made of
    components is then computed again for each of its rows."""
    x = value_of(node)
    behind = isinstance(x, torch.Tensor) and x.ndim > 1 and trailing(node) is None
    return MOST + 1 if behind else count(trailing(node))


# ---- rules: the components of a node's result, or None


def _elementwise(of: Rewriting, node: Node) -> Rows | None:
    shape = trailing(node)
    if shape is None or torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return None
    if any(value_of(x) is None for x in node.all_input_nodes):
        return None
    operands = [x for x in node.all_input_nodes if isinstance(value_of(x), Tensor)]
    held = [rows for rows in map(of.held, operands) if rows is not None]
    wide = [x for x in operands if x not in of.rows and len(trailing(x) or ()) == len(shape) and count(trailing(x)) > 1]
    if not held or count(shape) > MOST or (wide and all(rows.size == 1 for rows in held)):
        return None
    split = {x: of.split(x, len(shape) + 1) for x in operands}
    if any(rows is None for rows in split.values()):
        return None
    split = {x: np.broadcast_to(rows, shape) for x, rows in split.items()}  # type: ignore[arg-type]

    def component(index: tuple[int, ...]) -> Node:
        pick = lambda x: split[x][index] if x in split else x  # type: ignore[index]
        return of.call(node.target, *map_arg(node.args, pick), **map_arg(node.kwargs, pick))

    return filled(shape, component)


def _like(of: Rewriting, node: Node) -> Rows | None:
    """Constants of the shape of another tensor."""
    rows = of.held(node.args[0])
    if rows is None:
        return None
    kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}
    one = of.call(node.target, rows.flat[0], *node.args[1:], **kwargs)
    return filled(rows.shape, lambda _: one)


def _copy(of: Rewriting, node: Node) -> Rows | None:
    return of.held(node.args[0])


def _join(of: Rewriting, node: Node) -> Rows | None:
    """cat and stack, along other dimensions than the lead."""
    arguments, rank = arguments_of(node), value_of(node).ndim
    (dim,) = dims_of(arguments["dim"], rank)
    stack = node.target is aten.stack.default
    inputs = arguments["tensors"]
    if dim == 0 or not any(of.single(x) is not None for x in inputs):
        return None
    parts = [of.split(x, rank - 1 if stack else rank) for x in inputs]
    parts = [of.single(x) if trailing(x) == () else part for x, part in zip(inputs, parts, strict=True)]
    if any(part is None or part.ndim != rank - (2 if stack else 1) for part in parts):
        return None
    if len({value_of(x).dtype for x in inputs}) > 1 or sum(part.size for part in parts if part is not None) > MOST:
        return None
    return np.stack(parts, dim - 1) if stack else np.concatenate(parts, dim - 1)  # type: ignore[arg-type]


def _reshape(of: Rewriting, node: Node) -> Rows | None:
    """Views with the same lead, which keep the order of the components."""
    rows, shape = of.single(node.args[0]), trailing(node)
    if rows is None or shape is None or rows.size != prod(shape):
        return None
    return rows.reshape(shape)


def _expand(of: Rewriting, node: Node) -> Rows | None:
    rows, shape = of.held(node.args[0]), trailing(node)
    if rows is None or shape is None or len(shape) != rows.ndim or prod(shape) > MOST:
        return None
    if same(value_of(node).shape[0], value_of(node.args[0]).shape[0]):
        return np.broadcast_to(rows, shape)
    lead, short = node.args[1][0], rows  # type: ignore[index]
    return np.broadcast_to(filled(rows.shape, lambda at: of.call(aten.expand.default, short[at], [lead])), shape)


def _permute(of: Rewriting, node: Node) -> Rows | None:
    rows = of.held(node.args[0])
    if rows is None:
        return None
    rank = rows.ndim + 1
    dims = list(range(rank))
    if node.target is aten.permute.default:
        dims = dims_of(node.args[1], rank)
    else:
        a, b = dims_of(node.args[1:], rank)
        dims[a], dims[b] = b, a
    return rows.transpose([d - 1 for d in dims[1:]]) if dims[0] == 0 else None


def _part(of: Rewriting, node: Node) -> Rows | None:
    """select, slice and flip, not of the lead."""
    rows = of.held(node.args[0])
    if rows is None:
        return None
    arguments = arguments_of(node)
    flip = node.target in _FLIPS
    dims = dims_of(arguments["dims" if flip else "dim"], rows.ndim + 1)
    if 0 in dims:
        slice_of_all = node.target is aten.slice.Tensor and same(
            value_of(node).shape[0], value_of(node.args[0]).shape[0]
        )
        return rows if slice_of_all and arguments["step"] == 1 else None
    index: list[Any] = [slice(None)] * rows.ndim
    for d in dims:
        if node.target is aten.select.int:
            index[d - 1] = arguments["index"]
        elif flip:
            index[d - 1] = slice(None, None, -1)
        else:
            index[d - 1] = slice(arguments["start"], arguments["end"], arguments["step"])
    if not all(isinstance(k, (int, slice)) for k in index):
        return None
    return rows[(*index, ...)]  # an array still, where a single component is left


def _parts(of: Rewriting, node: Node) -> list[Rows] | None:
    """unbind and split, not along the lead."""
    rows, arguments = of.held(node.args[0]), arguments_of(node)
    if rows is None:
        return None
    (dim,) = dims_of(arguments["dim"], rows.ndim + 1)
    if dim == 0:
        return None
    if node.target is aten.unbind.int:
        front: tuple[Any, ...] = (slice(None),) * (dim - 1)
        return [rows[(*front, k, ...)] for k in range(rows.shape[dim - 1])]
    ends = np.cumsum([trailing(x)[dim - 1] for x in value_of(node)])  # type: ignore[index]
    return np.split(rows, ends[:-1], dim - 1)


def _fold(of: Rewriting, node: Node) -> Rows | None:
    """Sums and the like over components, from left to right."""
    rows, arguments = of.held(node.args[0]), arguments_of(node)
    dims = arguments["dim"]
    if rows is None or dims is None or dims == []:
        return None
    dims = [d - 1 for d in dims_of(dims, rows.ndim + 1)]
    if -1 in dims:
        return None
    step, kept = _FOLDS[node.target], [d for d in range(rows.ndim) if d not in dims]
    groups = rows.transpose([*kept, *dims]).reshape((*(rows.shape[d] for d in kept), -1))

    def total(index: tuple[int, ...]) -> Node:
        first, *others = (_converted(of, x, node) for x in groups[index])
        for other in others:
            first = of.call(step, first, other)
        return of.call(aten.div.Tensor, first, groups.shape[-1]) if node.target is aten.mean.dim else first

    found = filled(groups.shape[:-1], total)
    return np.expand_dims(found, tuple(dims)) if arguments["keepdim"] else found


def _converted(of: Rewriting, x: Node, node: Node) -> Node:
    """A component in the kind of number that the node gives."""
    wanted, value = value_of(node).dtype, value_of(x)
    if value.dtype == wanted:
        return x
    if wanted == torch.bool:
        return of.call(aten.ne.Scalar, x, 0)
    return of.call(prims.convert_element_type.default, x, wanted)


def _product(of: Rewriting, node: Node) -> Rows | None:
    """Products of matrices with few numbers, each a sum from left to right."""
    arguments, rank = arguments_of(node), value_of(node).ndim
    left, right = node.args[-2:]
    if not _is_small_product(node) or (arguments.get("alpha", 1), arguments.get("beta", 1)) != (1, 1):
        return None
    if left not in of.rows and right not in of.rows:
        return None
    # the matrix of mm has no lead: it is an operand of lower rank
    rows, columns = of.split(left, rank), of.split(right, 3)  # type: ignore[arg-type]
    if rows is None or columns is None:
        return None
    found = filled((*rows.shape[:-1], columns.shape[-1]), lambda at: _dot(of, rows[at[:-1]], columns[:, at[-1]]))
    if node.target is aten.addmm.default:
        bias = of.split(node.args[0], rank)  # type: ignore[arg-type]
        if bias is None:
            return None
        bias = np.broadcast_to(bias, found.shape)
        return filled(found.shape, lambda at: of.call(aten.add.Tensor, found[at], bias[at]))
    return found


def _dot(of: Rewriting, a: Rows, b: Rows) -> Node:
    terms = [of.call(aten.mul.Tensor, x, y) for x, y in zip(a, b, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = of.call(aten.add.Tensor, total, term)
    return total


def _is_small_product(node: Node) -> bool:
    """Whether a product of matrices is a few products of components."""
    if node.target not in (aten.mm.default, aten.addmm.default, aten.bmm.default):
        return False
    left, right = node.args[-2:]
    rows, columns = trailing(left), trailing(right)
    if rows is None or columns is None or (node.target is not aten.bmm.default and not _is_plain(right)):
        return False
    return prod(rows) * columns[-1] <= MOST_TERMS


def _is_plain(node: Any) -> bool:
    """A tensor without symbols in its shape."""
    return all(isinstance(n, int) for n in value_of(node).shape)


_JOINS = (aten.cat.default, aten.stack.default)
_PRODUCTS = (
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
_VIEWS = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
_FLIPS = (aten.flip.default, prims.rev.default)
_FOLDS: dict[Any, Any] = {
    aten.sum.dim_IntList: aten.add.Tensor,
    aten.mean.dim: aten.add.Tensor,
    aten.prod.dim_int: aten.mul.Tensor,
    aten.amax.default: aten.maximum.default,
    aten.amin.default: aten.minimum.default,
    aten.any.dim: aten.bitwise_or.Tensor,
    aten.any.dims: aten.bitwise_or.Tensor,
    aten.all.dim: aten.bitwise_and.Tensor,
    aten.all.dims: aten.bitwise_and.Tensor,
}
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_JOINS, _join),
    **dict.fromkeys(_VIEWS, _reshape),
    **dict.fromkeys(_FOLDS, _fold),
    **dict.fromkeys(_PRODUCTS[:3], _product),
    **dict.fromkeys((aten.select.int, aten.slice.Tensor, *_FLIPS), _part),
    **dict.fromkeys((aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default), _parts),
    **dict.fromkeys((aten.permute.default, aten.transpose.int), _permute),
    **dict.fromkeys((aten.clone.default, aten.alias.default, aten.detach.default), _copy),
    **dict.fromkeys(
        (aten.full_like.default, aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default),
        _like,
    ),
    aten.expand.default: _expand,
}

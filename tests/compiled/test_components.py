"""Tensors held as component vectors give the same numbers, and leave nothing of (batch, d) in memory."""

import re

import pytest
import torch
from torch._inductor.custom_graph_pass import get_hash_for_files
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.utils import run_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree

import sdesolve as ss
from sdesolve.compiled import component_graph, components
from sdesolve.compiled.components import component_vectors, rewrite

aten = torch.ops.aten
JOINS = (aten.cat.default, aten.stack.default)
MATRIX = torch.tensor([[0.2, 0.1, -0.3], [0.5, 0.3, 0.1]])
NET = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))


def traced(function, *inputs):
    """The graph that inductor is given, whose batch, of 5, is a symbol."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    kinds = [[DimDynamic.DUCK if n == 5 else DimDynamic.STATIC for n in x.shape] for x in inputs]
    fakes = [
        mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kind))
        for x, kind in zip(inputs, kinds, strict=True)
    ]
    return make_fx(function, select_decomp_table(), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fakes)


def rewritten(function, *inputs):
    graph = traced(function, *inputs)
    rewrite(graph.graph)
    graph.recompile()
    return graph


def joins(graph, *targets):
    """How often components are put side by side."""
    return sum(
        node.target in (targets or JOINS) and node.args[1:] != (0,) for node in graph.graph.nodes if node.args[1:]
    )


class Checked(torch.fx.Interpreter):
    """Runs a graph, and compares each tensor with what the graph says of it."""

    def run_node(self, node):
        found, known = super().run_node(node), node.meta.get("val")
        if isinstance(found, torch.Tensor) and node.op == "call_function":
            assert found.dtype == known.dtype, node
            assert found.ndim == known.ndim, node
            for size, said in zip(found.shape, known.shape, strict=True):
                assert not isinstance(said, int) or size == said, node
        return found


def batches(rows):
    """Packed components of several batches; the first one is traced."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, batch, generator=generator) for batch in (5, 1, 8)]


def lorenz(y):
    u, v, w = y.unbind(-1)
    return torch.stack([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w], -1)


def van_der_pol(y):
    x, v = y[:, :1], y[:, 1:2]
    return torch.cat([v, 5 * (1 - x * x) * v - x, y[:, 2:]], 1)


def matrices(y):
    g = MATRIX * y[:, :2, None]
    w = torch.stack([y[:, 0], y[:, 2], y[:, 1]], 1)
    return (g * w[:, None, :]).sum(-1), g.transpose(1, 2).reshape(-1, 6), (g.mT @ torch.tanh(g)).flatten(1)[:, ::2]


#: functions of y, (batch, 3), and lanes, (batch,), whose result is small
CHAINS = {
    "stack of unbound": lambda y, t: y + 0.1 * lorenz(y + 0.5 * lorenz(y)),
    "cat of slices": lambda y, t: van_der_pol(y + t[:, None] * van_der_pol(y)),
    "a lane's number": lambda y, t: torch.where((t > 0)[:, None], y * t.reshape(-1, 1), y / (1 + t[:, None] ** 2)),
    "constants": lambda y, t: torch.maximum(y * MATRIX[0], torch.tensor(0.5)) - torch.ones_like(y) + torch.zeros(3),
    "kinds": lambda y, t: ((y > 0) & (y < 1)).to(torch.float64) + (y * 3).long() + (y.double() * 2).float(),
    "float64 constants": lambda y, t: y * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    "sums": lambda y, t: torch.stack([y.sum(-1), y.mean(1), y.prod(-1), y.amax(1), y.amin(-1)], 1) * t[:, None],
    "sums that keep": lambda y, t: y / y.sum(-1, keepdim=True) + y.softmax(-1) + (y > 0).sum(-1, keepdim=True),
    "norms": lambda y, t: y / torch.linalg.vector_norm(y, dim=1, keepdim=True) + (y * y).mean(-1, True).sqrt(),
    "logic": lambda y, t: torch.where(((y > -1).all(-1) | (y > 2).any(-1))[:, None], y, -y),
    "any of numbers": lambda y, t: y * (y.round()).any(-1, keepdim=True) + y.round().bool().all(-1)[:, None],
    "views": lambda y, t: y.flip(-1).unsqueeze(1).squeeze(1).reshape(-1, 3, 1).expand(-1, 3, 2).permute(0, 2, 1).sum(1),
    "parts": lambda y, t: (
        torch.cat([*y.split([2, 1], -1)][::-1], -1) + torch.stack([x[:, 0] for x in y.chunk(3, -1)], 1)
    ),
    "matrices": lambda y, t: torch.cat(matrices(y), 1),
    "small products": lambda y, t: torch.addmm(y[:, :2], y, MATRIX.T) + y @ MATRIX.T,
    "copies": lambda y, t: y.clone() + y.detach().contiguous(),
}


def chain(name):
    def function(packed):
        a, b, c, t = packed.unbind(0)
        return torch.stack(CHAINS[name](torch.stack([a, b, c], -1), t).unbind(-1))

    return function


@pytest.mark.parametrize("name", CHAINS)
def test_components_of_a_chain_of_operations_give_the_same_numbers_and_are_never_side_by_side(name):
    first, *others = batches(4)
    before, after = traced(chain(name), first), rewritten(chain(name), first)
    assert joins(before) > 0
    assert joins(after) == 0
    for packed in (first, *others):
        torch.testing.assert_close(Checked(after).run(packed), chain(name)(packed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "apart",
    [
        lambda y: torch.cumsum(y, -1),
        lambda y: y[:, [2, 0]],
        lambda y: y + torch.cumsum(y, 0),
        lambda y: (y, y.sum(0), y.sort(-1).values),
        lambda y: y.reshape(-1)[::2],
        lambda y: y.unsqueeze(0).sum(1),
        lambda y: y.T.contiguous(),
        lambda y: torch.var_mean(y, 1)[0] * y.any(),
    ],
)
def test_what_has_no_rule_gets_the_tensor_in_one_piece(apart):
    function = lambda packed: apart(lorenz(torch.stack(packed.unbind(0), -1) * 2))
    first, *others = batches(3)
    after = rewritten(function, first)
    # lorenz's stack, and the second time where the result is one
    assert joins(after) <= 2
    for packed in (first, *others):
        torch.testing.assert_close(Checked(after).run(packed), function(packed), rtol=1e-6, atol=1e-6)


def test_other_tensors_are_read_by_component_beside_held_ones():
    def function(packed, noise, scale, full):
        y = torch.stack(packed.unbind(0), -1)
        return torch.cat([y * noise + scale, noise[:, :1]], -1).sum(-1), y + full[:, None] + torch.full_like(y, 2.0)

    inputs = [(x, torch.randn(x.shape[1], 3), torch.randn(1, 3), torch.randn(x.shape[1])) for x in batches(3)]
    after = rewritten(function, *inputs[0])
    assert joins(after) == 1  # the second result
    for given in inputs:
        torch.testing.assert_close(Checked(after).run(*given), function(*given), rtol=1e-6, atol=1e-6)


def test_sums_over_components_run_from_left_to_right():
    function = lambda packed: torch.stack(packed.unbind(0), -1).sum(-1)
    first, *others = batches(8)
    after = rewritten(function, first)
    for packed in (first * 1e4, *others):
        expected = packed[0]
        for row in packed[1:]:
            expected = expected + row
        assert torch.equal(after(packed), expected)


def test_a_tensor_that_is_read_written_and_read_again_keeps_its_order():
    def function(packed, record):
        y = torch.stack(packed.unbind(0), -1)
        before = y + record
        record.copy_(y)
        return torch.stack((before * 2).unbind(-1)), torch.stack((y + record).unbind(-1))

    first = batches(3)[0]
    room = torch.ones(5, 3)
    after = rewritten(function, first, room.clone())
    expected, got = function(first, a := room.clone()), after(first, b := room.clone())
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "function",
    [
        lambda packed: torch.stack(
            NET(torch.stack(packed.unbind(0), -1)).unbind(-1)
        ),  # a network wants the whole state
        lambda packed: packed.sin() + torch.cat([packed[:1], packed[1:]]),  # nothing is put side by side
        lambda packed: torch.stack([packed[0] + k for k in range(40)], -1).sum(-1),  # too many components
        lambda packed: torch.stack(torch.stack(packed.to(torch.complex64).unbind(0), -1).unbind(-1)),
    ],
)
def test_graphs_with_nothing_to_gain_are_left_as_they_are(function):
    first = batches(3)[0]
    with torch.no_grad():
        before, after = traced(function, first), rewritten(function, first)
    assert after.code == before.code


def test_cached_code_is_known_by_the_text_of_the_pass():
    files = (components.__file__, component_graph.__file__)
    assert component_vectors().uuid() == get_hash_for_files(files) == component_vectors().uuid()


@pytest.mark.compile
def test_a_lorenz_step_is_one_kernel_without_a_buffer_between(monkeypatch):
    graphs = []

    def noted(graph):
        rewrite(graph)
        graphs.append(graph)

    monkeypatch.setattr(components, "rewrite", noted)
    ode = ss.ODE(lambda t, y: lorenz(y))
    y0, ts = torch.randn(64, 3) + torch.tensor([1.0, 1.0, 25.0]), torch.tensor([0.0, 0.2])
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        sol, (code,) = run_and_get_code(lambda: ss.solve(ode, y0, ts, rtol=1e-5, atol=1e-5, compile=True))
        eager = ss.solve(ode, y0, ts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sol.ys, eager.ys, rtol=1e-4, atol=1e-4)
    first_output = lambda graph: _pytree.tree_leaves(next(iter(reversed(graph.nodes))).args)[0]
    (step,) = [graph for graph in graphs if first_output(graph).target is aten.add.Tensor]  # the loop's number of steps
    assert sum(node.target is aten.where.self for node in step.nodes) > 20
    assert not [node for node in step.nodes if node.target in JOINS and node.args[1:]]
    body = code[code.index("subgraph: while_loop_body_graph_0") :]
    body = body[: body.index("\n    }\n")]
    assert len(re.findall(r"^\s*cpp_fused_\w+\(", body, re.MULTILINE)) == 1
    # the new carry: state and stage, reals, integers, status, the number of steps
    assert len(re.findall(r"aoti_torch_empty_strided\(", body)) <= 6

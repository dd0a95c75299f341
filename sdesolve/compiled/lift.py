"""A step as a function of everything that it reads: the tensors it is given, and those in the user's closures and
modules, which gradients are wanted of.

Dynamo traces the step and finds them, whatever hides them; its graph, as a plain function, is what the compiled replay
differentiates.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from sdesolve.compiled.graphs import called, explained, fact

T = TypeVar("T")
Tensors = tuple[Tensor, ...]

_TENSOR = re.compile(r"^L\['tensors'\]\[(\d+)\]$")
_SIZE = re.compile(r"^L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]$")


@dataclass(frozen=True, eq=False)
class Pure:
    """A traced function of (tensors, lifted). order : what each input of the graph is: ("tensor", i), ("size", i, dim)
    or ("lifted", i)."""

    graph: fx.GraphModule
    order: tuple[tuple[Any, ...], ...]

    def __call__(self, tensors: tuple[Tensor, ...], lifted: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs: list[Any] = []
        for kind, i, *dim in self.order:
            if kind == "tensor":
                inputs.append(tensors[i])
            elif kind == "size":
                inputs.append(tensors[i].shape[dim[0]])
            else:
                inputs.append(lifted[i])
        out: tuple[Tensor, ...] = self.graph(*inputs)
        return out

    def vjp(
        self, states: Tensors, given: Tensors, lifted: Tensors, wanted: tuple[bool, ...]
    ) -> tuple[Tensors, Callable[[Tensors], tuple[Tensors, Tensors]]]:
        """Its values at (*states, *given), and what takes their cotangents to those of the states and of the lifted
        tensors that are wanted."""

        def function(states: Tensors, chosen: Tensors) -> Tensors:
            return self((*states, *given), all_of(lifted, wanted, chosen))

        pulled = torch.func.vjp(function, states, some_of(lifted, wanted))
        return pulled[0], pulled[1]


class Lifted(NamedTuple):
    """A pure function, and the tensors it reads beside its arguments, as they are now."""

    pure: Pure
    tensors: tuple[Tensor, ...]

    @property
    def wanted(self) -> tuple[bool, ...]:
        """Of which of them gradients are wanted."""
        return tuple(x.requires_grad for x in self.tensors)


def some_of(tensors: tuple[T, ...], wanted: tuple[bool, ...]) -> tuple[T, ...]:
    """Those that are wanted."""
    return tuple(x for x, want in zip(tensors, wanted, strict=True) if want)


def all_of(tensors: tuple[Tensor, ...], wanted: tuple[bool, ...], some: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors, with others in the places of those that are wanted."""
    others = iter(some)
    return tuple(next(others) if want else x for x, want in zip(tensors, wanted, strict=True))


class _Catch:
    """A backend of dynamo that runs nothing: it keeps the graph, and what it was called with."""

    def __init__(self) -> None:
        self.found: Lifted | None = None

    def __call__(self, graph: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        order: list[tuple[Any, ...]] = []
        lifted = 0
        for node in graph.graph.nodes:
            if node.op != "placeholder":
                continue
            source = node.meta["grapharg"].source.name
            name = source if isinstance(source, str) else source()
            tensor, size = _TENSOR.match(name), _SIZE.match(name)
            if tensor:
                order.append(("tensor", int(tensor[1])))
            elif size:
                order.append(("size", int(size[1]), int(size[2])))
            else:
                order.append(("lifted", lifted))
                lifted += 1
        if any("_functorch" in str(getattr(node.target, "__module__", "")) for node in graph.graph.nodes):
            # a derivative that the step takes itself: dynamo cannot trace it twice, but what it computes
            plain: fx.GraphModule = make_fx(graph)(*inputs)
            plain.graph.eliminate_dead_code()
            plain.recompile()
        else:
            plain = graph
        if hasattr(plain, "real_recompile"):
            plain.real_recompile()  # type: ignore[operator]  # dynamo's graphs make their code when they are first called
        pure = Pure(plain, tuple(order))
        outputs = len(next(iter(reversed(graph.graph.nodes))).args[0])

        def run(*inputs: Any) -> tuple[Tensor, ...]:
            others = tuple(x for x, (kind, *_) in zip(inputs, order, strict=True) if kind == "lifted")
            self.found = Lifted(pure, others)
            return tuple(torch.empty(0) for _ in range(outputs))

        return run


_one_at_a_time = Lock()


def lift(key: Any, function: Callable[..., tuple[Tensor, ...]], parts: Any, tensors: tuple[Tensor, ...]) -> Lifted:
    """``function(parts, tensors)`` as a pure function; it must return new tensors. Batches are to be marked."""

    def compiled() -> tuple[_Catch, Callable[..., Any]]:
        catch = _Catch()
        assert isinstance(function, types.FunctionType)
        own = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
        return catch, torch.compile(own, backend=catch, fullgraph=True, dynamic=False)

    catch, run = fact(("lift", *key), compiled)
    with _one_at_a_time, explained(), torch.no_grad():
        called(run, (parts, tensors))
        found, catch.found = catch.found, None
    assert found is not None
    return found

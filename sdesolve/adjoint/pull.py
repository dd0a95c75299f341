"""Vector-Jacobian products of parts of a solve, in which nothing that has a gradient is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from sdesolve.adjoint.parameters import apart, made_outside, reached, refuse, unknown

Tensors = tuple[Tensor, ...]
#: (outputs of a function, gradient of a loss by its argument from those by its outputs)
Pulled = tuple[Tensors, Callable[[Sequence[Tensor]], Tensor]]


class Pull:
    """Products by the inputs of each part are returned, those by the parameters summed up in ``sums``.

    Whether the parts read tensors that need a gradient and are no parameters is looked at wherever ``check`` is called;
    in calls of the object itself, where ``due`` was set since the last one.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.sums: list[Tensor | None] = [None] * len(parameters)
        self.due = True
        self._wanted = [i for i, x in enumerate(parameters) if x.requires_grad]
        self._made = made_outside(parameters)
        self._outside = self._made or any(x._backward_hooks for x in parameters)
        self._settled = False

    def __call__(self, function: Callable[[Tensor], Tensors], x: Tensor) -> Pulled:
        """The function's value, and how gradients by it become one by x."""

        def again() -> tuple[Tensor, Tensors]:
            inner = x.detach().requires_grad_()
            with torch.enable_grad():
                return inner, function(inner)

        inner, outputs = again()
        if self.due:
            self.check(list(outputs), [inner], lambda: list(again()[1]))
            self.due = False

        def back(gradients: Sequence[Tensor]) -> Tensor:
            (found,) = self.grad(list(zip(outputs, gradients, strict=True)), [inner])
            return torch.zeros_like(x) if found is None else found

        return tuple(y.detach() for y in outputs), back

    def grad(self, outputs: Sequence[tuple[Tensor, Tensor | None]], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Products with the gradients that stand beside the outputs."""
        pairs = [(y, g) for y, g in outputs if g is not None and y.requires_grad]
        if not pairs:
            return (None,) * len(inputs)
        of = [x for x in inputs if x.requires_grad]
        wanted = reached([y for y, _ in pairs], self.parameters) if self._made else self._wanted
        parameters = [self.parameters[i] for i in wanted]
        with apart(parameters) if self._outside else nullcontext():
            found = torch.autograd.grad(
                [y for y, _ in pairs], [*of, *parameters], [g for _, g in pairs], allow_unused=True, retain_graph=True
            )
        self._add(wanted, found[len(of) :])
        named = dict(zip(map(id, of), found, strict=False))
        return tuple(named.get(id(x)) for x in inputs)

    def _add(self, wanted: list[int], found: Sequence[Tensor | None]) -> None:
        known: list[Tensor] = []
        more: list[Tensor] = []
        for i, g in zip(wanted, found, strict=True):
            before = self.sums[i]
            if g is None:
                continue
            if before is None:
                self.sums[i] = g.clone()
            else:
                known.append(before)
                more.append(g)
        if known:
            torch._foreach_add_(known, more)

    def check(self, values: list[Tensor], inputs: list[Tensor], again: Callable[[], list[Tensor]]) -> None:
        """Refuse leaves that are not known. Those that the functions make themselves are others when asked again."""
        if self._settled:
            return
        known = [*inputs, *self.parameters]
        missing = unknown(values, known)
        if not missing:
            return
        self._settled = True
        second = set(map(id, unknown(again(), known)))
        for x in missing:
            if id(x) in second:
                refuse(x)

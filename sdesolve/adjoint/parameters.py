"""Which tensors a solve's gradients go to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.capture import Captured, leaves
from sdesolve.errors import SolveError, message
from sdesolve.fixed_plan import FixedPlan
from sdesolve.plan import Report, Result, last_time
from sdesolve.solution import Status
from sdesolve.state import StateSpec
from sdesolve.system import System


def parameters_of(system: System, captured: Captured, t0: Tensor, y0: Tensor) -> list[Tensor]:
    """Tensors that the functions carry with them, and leaves that are found behind one evaluation, but not behind
    these."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        advice = "With fixed steps, adjoint='direct' goes through torch.func transforms."
        raise ValueError(message("adjoint", "another one than 'direct' inside torch.func", "'direct' there", advice))
    with torch.enable_grad():
        found = [system.drift(t0, y0.detach())]
        if system.is_sde:
            found.append(system.diffusion(t0, y0.detach()))
    known = captured.differentiable()
    names = set(map(id, known))
    return known + [x for x in leaves((x for x in found if x.requires_grad), known) if id(x) not in names]


@contextmanager
def apart(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Gradients by these tensors end at them: hooks on them are for the gradient of the whole solve, and what they were
    made of has its own place in the graph outside."""
    hooks = [(x._backward_hooks, dict(x._backward_hooks)) for x in tensors if x._backward_hooks]
    stops = [x.grad_fn.register_prehook(_without(x.output_nr)) for x in tensors if x.grad_fn is not None]
    for there, _ in hooks:
        there.clear()
    try:
        yield
    finally:
        for there, items in hooks:
            there.update(items)
        for stop in stops:
            stop.remove()


def _without(number: int) -> Callable[[tuple[Tensor | None, ...]], tuple[Tensor | None, ...]]:
    """Gradients of a node's outputs, but 0 for one of them."""
    return lambda grads: tuple(torch.zeros_like(g) if i == number and g is not None else g for i, g in enumerate(grads))


def made_outside(tensors: Sequence[Tensor]) -> bool:
    """Whether some of them are no leaves, so that a part of the graph is older than the functions' values."""
    return any(x.grad_fn is not None for x in tensors)


def reached(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[int]:
    """Which tensors to ask for when gradients of the values are: those that are no leaves, and leaves that the values
    depend on not only through them. A way through would be gone along, with zeros, however long it is."""
    made = [x for x in tensors if x.grad_fn is not None]
    names = set(map(id, leaves(values, made)))
    return [i for i, x in enumerate(tensors) if x.requires_grad and (x.grad_fn is not None or id(x) in names)]


def casts(device: torch.device) -> Callable[[], torch.autocast]:
    """The automatic casts of here and now, to be entered again on the way back."""
    kind = device.type
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


def ends_without_gradient(plan: FixedPlan | AdaptivePlan, y0: Tensor, report: Report | None) -> Result:
    """Run a plan of which nothing was found that needs a gradient. A tensor that matters only in the end would have no
    way back, so it is looked for there."""
    with torch.no_grad():
        result = plan.run(y0, report)
    system, y = plan.system, result.ys[-1].detach()
    with torch.enable_grad():
        values = [system.drift(last_time(plan), y)]
        if system.is_sde:
            values.append(system.diffusion(last_time(plan), y))
    for x in leaves([x for x in values if x.requires_grad]):
        refuse(x)
    return result


def unknown(values: list[Tensor], known: list[Tensor]) -> list[Tensor]:
    """Leaves that values depend on and that are not known."""
    names = set(map(id, known))
    return [x for x in leaves(values, known) if id(x) not in names]


def refuse(missing: Tensor) -> NoReturn:
    """Raise, as its gradient would go missing."""
    raise SolveError(
        f"adjoint: the functions read a tensor of shape {tuple(missing.shape)}, which requires a gradient, and was "
        "found neither in what they carry with them nor behind their values at the start; accepted are tensors in "
        "closures, modules, attributes of objects and globals, and what matters at the start. Write the functions as a "
        "module that holds it, or use adjoint='direct'."
    )


def refuse_second(adjoint: str, compiled: bool = False) -> NoReturn:
    """Raise, as gradients of gradients were asked for."""
    how = " with compile=True" if compiled else ""
    raise SolveError(
        f"adjoint: {adjoint!r}{how} was asked for gradients of its gradients (create_graph=True); accepted is one "
        "derivative. With compile=False, adjoint='direct' and 'checkpoint' can be differentiated as often as you like."
    )


def refuse_unstable(time: float, reason: Status) -> NoReturn:
    """Raise, as an adjoint equation could not be solved."""
    raise SolveError(
        f"adjoint: the backward solve failed near t = {time:.6g}: {reason.text}. The equation may be unstable "
        "backwards in time, or the steps too long for it; adjoint='direct' and 'checkpoint' do not solve it backwards.",
        reason=reason,
        time=time,
    )


def refuse_missed(found: Tensor, start: Tensor, ys: Tensor, spec: StateSpec) -> None:
    """Raise where the way back has not come to where the solve began: then no gradient is right."""
    size = ys.nan_to_num().abs().max().clamp(min=start.abs().max())
    away, limit = (found - start).abs().max(), torch.finfo(spec.dtype.to_real()).eps ** 0.25
    if not bool(away <= limit * size):
        raise SolveError(
            f"adjoint: 'reversible' came back {float(away / size):.2g} of the solution's size away from "
            f"y0 (at most {limit:.2g} is accepted): rounding errors grow on the way back, by 1 / coupling a step. "
            "Take a coupling nearer to 1, float64, or adjoint='checkpoint', which goes no such way."
        )

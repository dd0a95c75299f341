"""The adjoint equation of an ODE as a system of its own: state, adjoint and the parameters' integral in one vector."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sdesolve.adjoint.parameters import apart, made_outside, reached
from sdesolve.adjoint.pull import Pull
from sdesolve.compiled.lift import Lifted
from sdesolve.state import StateSpec
from sdesolve.step_size import PID, rms
from sdesolve.system import System

#: how far above the tolerance the error of the parameters' integral may be, with the seminorm
_LEEWAY = 100.0


@dataclass(frozen=True)
class Control:
    """Of the backward solve: tolerances, None for those of the forward solve; whether the parameters' integral is
    left out of the error's norm, up to 100 times its tolerance."""

    rtol: float | None = None
    atol: float | None = None
    seminorm: bool = True


class AdjointSystem(System):
    """(y, a, dL/dp) as one flat state. origin, end : t at s = 0 and 1, and speed : dt/ds, where trajectories have
    times of their own; wrong : trajectories that have failed. lifted : the drift as a pure function, which compiled
    code can differentiate."""

    def __init__(
        self,
        system: System,
        parameters: list[Tensor],
        lanes: bool,
        lifted: Lifted | None,
        options: Control,
    ) -> None:
        self.system, self.parameters, self.lanes, self.options = system, parameters, lanes, options
        self.made = made_outside(parameters)
        self.outside = self.made or any(x._backward_hooks for x in parameters)
        self.pull = Pull(parameters)
        self.pure = None if lifted is None else lifted.pure
        self.lifted = () if lifted is None else tuple(x.detach() for x in lifted.tensors)
        self.wanted = () if lifted is None else lifted.wanted
        self.width = prod(system.spec.shape)
        self.sizes = [self.width, self.width, *(self._flat(p).numel() for p in parameters)]
        self.spec = StateSpec(1, False, (sum(self.sizes),), system.spec.dtype, system.spec.device)
        self.is_sde, self.noise, self.additive, self.names = False, None, False, system.names
        self.origin: Tensor | None = None
        self.end: Tensor | None = None
        self.speed: Tensor | None = None
        self.wrong: Tensor | None = None

    @property
    def structure(self) -> Any:
        return (
            "adjoint",
            self.system.structure,
            self.pure,
            self.wanted,
            self.lanes,
            self.speed is not None,
            self.wrong is not None,
            self.options.seminorm,
        )

    def resized(self, batch: int, along: TorchFunctionMode | None = None) -> AdjointSystem:
        """Itself: its size is that of all trajectories and parameters."""
        return self

    def pack(self, y: Tensor, a: Tensor, grads: list[Tensor]) -> Tensor:
        return torch.cat([y.reshape(-1), a.reshape(-1), *(self._flat(g).to(y.dtype) for g in grads)])

    def _flat(self, gradient: Tensor) -> Tensor:
        """Of a parameter: one number after the other; a complex one is two in a real state."""
        real = gradient.is_complex() and not self.system.spec.dtype.is_complex
        return (torch.view_as_real(gradient.detach().resolve_conj()) if real else gradient).reshape(-1)

    def _like(self, flat: Tensor, parameter: Tensor) -> Tensor:
        """The reverse of ``_flat``."""
        if parameter.is_complex() and not flat.is_complex():
            return torch.view_as_complex(flat.reshape(*parameter.shape, 2)).to(parameter.dtype)
        flat = flat.real if flat.is_complex() and not parameter.is_complex() else flat
        return flat.reshape(parameter.shape).to(parameter.dtype)

    def unpack(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.system.spec.shape
        return z[: self.width].view(shape), z[self.width : 2 * self.width].view(shape), z[2 * self.width :]

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        z, spec = y, self.system.spec
        state, a, _ = self.unpack(z)
        if self.speed is not None and self.origin is not None and self.end is not None:
            time = spec.expand(torch.lerp(self.origin, self.end, t))
            asked = -a * spec.expand(self.speed)
        else:
            time = spec.expand(t.expand(spec.batch)) if self.lanes else t
            asked = -a
        f, found = self._pulled(time, state, asked) if self.pure is not None else self._by_autograd(time, state, asked)
        f = f * spec.expand(self.speed) if self.speed is not None else f
        return self._packed(f, state, found)

    def _packed(self, f: Tensor, state: Tensor, found: tuple[Tensor | None, ...]) -> Tensor:
        """f and the gradients by the state and the parameters; 0 where there is none."""
        like = (state, *self.parameters)
        mine, *others = (torch.zeros_like(x) if g is None else g for g, x in zip(found, like, strict=True))
        return self.pack(self._good(f), self._good(mine), others)

    def _good(self, x: Tensor) -> Tensor:
        """0 for trajectories that have failed: what the functions hold for them may be NaN."""
        return x if self.wrong is None else torch.where(self.system.spec.expand(self.wrong), 0.0, x)

    def by_slope(self, t: NDArray[np.float64], y: Tensor, slope: Tensor) -> Tensor:
        """What a gradient by f(t, y) adds to those by y and the parameters, as a state."""
        spec = self.system.spec
        time = torch.as_tensor(t, dtype=spec.time_dtype, device=spec.device)
        time = spec.expand(time.expand(spec.batch)) if self.lanes else time.reshape(())
        _, found = self._by_autograd(time, y, slope)
        return self._packed(torch.zeros_like(y), y, found)

    def _by_autograd(self, time: Tensor, state: Tensor, a: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """f(t, y), a^T df/dy and a^T df/dp."""
        with torch.enable_grad():
            inner = state.detach().requires_grad_()
            f = self.system.drift(time, inner)
            if not f.requires_grad:
                return f, (None,) * (1 + len(self.parameters))
            if self.pull.due:
                self.pull.check([f], [inner], lambda: [self.system.drift(time, inner)])
                self.pull.due = False
            wanted = reached([f], self.parameters) if self.made else range(len(self.parameters))
            inputs = (inner, *(self.parameters[i] for i in wanted))
            with apart(inputs[1:]) if self.outside else nullcontext():
                mine, *others = torch.autograd.grad(f, inputs, a, allow_unused=True, retain_graph=True)
        found: list[Tensor | None] = [None] * len(self.parameters)
        for i, g in zip(wanted, others, strict=True):
            found[i] = g
        return f.detach(), (mine, *found)

    def _pulled(self, time: Tensor, state: Tensor, a: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same of the pure function."""
        assert self.pure is not None
        (f,), pull = self.pure.vjp((state,), (time,), self.lifted, self.wanted)
        (found,), gradients = pull((a,))
        return f, (found, *gradients)

    def control(self, control: PID) -> PID:
        """The tolerances for y, a and the parameters. Where components of y have their own, a has the strictest
        one above 0."""

        def flat(tolerance: float | Tensor) -> float | Tensor:
            if not isinstance(tolerance, Tensor) or tolerance.ndim == 0:
                return tolerance
            positive = tolerance[tolerance > 0]
            least = positive.min() if positive.numel() else tolerance.min()
            of_y = tolerance.to(self.spec.device, self.spec.time_dtype).expand(self.system.spec.shape).reshape(-1)
            return torch.cat([of_y, least.to(of_y).expand(sum(self.sizes) - self.width)])

        rtol, atol = self.options.rtol, self.options.atol
        return replace(
            control,
            rtol=flat(control.rtol if rtol is None else rtol),
            atol=flat(control.atol if atol is None else atol),
            interpolate=False,
        )

    def norm(self, error: Tensor) -> Tensor:
        """The worst trajectory's error in y or in a; the parameters' integral has a full say if there is no seminorm,
        and otherwise one that keeps it from being nonsense."""
        y, a, rest = self.unpack(error)
        spec = self.system.spec
        worst = torch.maximum(rms(y, spec), rms(a, spec)).max().reshape(1)
        if not self.parameters:
            return worst
        leeway = _LEEWAY if self.options.seminorm else 1.0
        # not of NaN, which failed trajectories may leave there
        return torch.fmax(worst, torch.linalg.vector_norm(rest).reshape(1) / (leeway * rest.numel() ** 0.5))

    def gradients(self, z: Tensor) -> list[Tensor]:
        _, a, rest = self.unpack(z)
        parts = torch.split(rest, self.sizes[2:])
        return [a, *(self._like(g, p) for g, p in zip(parts, self.parameters, strict=True))]

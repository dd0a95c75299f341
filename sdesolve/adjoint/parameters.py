"""Which tensors a solve's gradients go to."""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.capture import Captured, leaves
from sdesolve.system import System


def parameters_of(system: System, captured: Captured, t0: Tensor, y0: Tensor) -> list[Tensor]:
    """Leaves known from the functions' closures and modules, and those found behind one evaluation."""
    with torch.enable_grad():
        found = [system.drift(t0, y0.detach())]
        if system.is_sde:
            found.append(system.diffusion(t0, y0.detach()))
    return leaves([*captured.differentiable(), *(x for x in found if x.requires_grad)])

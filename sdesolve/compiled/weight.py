"""How much a step computes: whether several of them fit into one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdesolve.compiled.graphs import fact
from sdesolve.methods.method import Method
from sdesolve.system import System

#: elementwise operations of the user's functions in one step, up to which steps are taken several at a time
LIGHT = 40


class _Count(TorchDispatchMode):
    """Counts elementwise operations, and notes if there are others."""

    def __init__(self) -> None:
        super().__init__()
        self.elementwise, self.other = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.pointwise in func.tags:
            self.elementwise += 1
        elif not func.is_view and not func.name().startswith(_FREE):
            self.other = True
        return func(*args, **(kwargs or {}))


#: operations that cost nothing in a kernel
_FREE = (
    "aten::ones_like",
    "aten::zeros_like",
    "aten::full",
    "aten::cat",
    "aten::stack",
    "aten::_to_copy",
    "aten::clone",
)


def is_light(system: System, method: Method, t: Tensor, y: Tensor) -> bool:
    """Whether drift and diffusion are a few elementwise operations. They are evaluated once a structure to see, which
    also shows mistakes in them before anything is compiled."""

    def look() -> bool:
        with torch.no_grad(), _Count() as drift:
            system.drift(t, y)
        with torch.no_grad(), _Count() as diffusion:
            g = system.diffusion(t, y) if system.is_sde else y
        diffusions = method.evaluations_of_diffusion(system, g.shape[-1] if system.noise == "general" else 1)
        weights = method.drift_evaluations * drift.elementwise + diffusions * diffusion.elementwise
        return weights <= LIGHT and not drift.other and not diffusion.other

    return fact(("light", system.structure, method, system.spec.per_trajectory, system.spec.dtype), look)

"""ODEs whose right-hand side is the sum of a stiff part and one that is not.

dy/dt = stiff(t, y) + nonstiff(t, y)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sdesolve.problem import ODE, Problem


class SplitODE(Problem):
    """dy/dt = stiff(t, y) + nonstiff(t, y).

    ``"kencarp4"``, the default, solves the equations of the first part alone, in which the second stands as a number:
    a part that is cheap to evaluate, or hard to differentiate, is best called nonstiff. Every other ODE method solves
    the sum. Evaluations are counted of ``stiff``; a step of ``"kencarp4"`` evaluates ``nonstiff`` six times.

    Parameters
    ----------
    stiff, nonstiff : functions ``(t, y) -> tensor`` of y's shape, as for :class:`ODE`. Modules are registered. A
        subclass may define methods of these names instead.
    batched, vectorize, allow_training : see :class:`Problem`; by default True, False, False.

    Raises
    ------
    TypeError : a part that is missing, or cannot be called.

    Examples
    --------
    >>> import torch, sdesolve as ss
    >>> heat = ss.SplitODE(lambda t, y: -1e4 * y, lambda t, y: 1e4 * torch.cos(t) + y * y)
    >>> sol = ss.solve(heat, torch.ones(1, 1), torch.tensor([0.0, 1.0]))
    >>> abs(sol.ys[-1].item() - 0.5404) < 1e-3
    True
    """

    kind = "SplitODE"
    functions = given = ("stiff", "nonstiff")
    stiff: Callable[[Tensor, Any], Any]
    nonstiff: Callable[[Tensor, Any], Any]

    def __init__(
        self,
        stiff: Callable[[Tensor, Any], Any] | None = None,
        nonstiff: Callable[[Tensor, Any], Any] | None = None,
        *,
        batched: bool = True,
        vectorize: bool = False,
        allow_training: bool = False,
    ) -> None:
        super().__init__(batched=batched, vectorize=vectorize, allow_training=allow_training)
        self._take("stiff", stiff)
        self._take("nonstiff", nonstiff)

    @property
    def parts(self) -> tuple[Problem, Problem]:
        """Each part as a problem of its own."""
        return self._part("stiff"), self._part("nonstiff")

    def _part(self, name: str) -> Problem:
        function = getattr(self, name)
        part = ODE(function, batched=self.batched, vectorize=self.vectorize, allow_training=self.allow_training)
        part.functions = part.given = (name,)
        object.__setattr__(part, name, function)
        return part

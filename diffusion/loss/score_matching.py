"""Score matching without noise to compare with: against a known score, or by derivatives of the model's own.

For a density p and a model s of its score, up to a number that does not depend on s,

    1/2 E |s - grad log p|^2  =  E [|s|^2 / 2 + div s]  =  E [|s|^2 / 2 + v^T (ds/dx) v],    E v v^T = I
    explicit                     implicit                  sliced

and the denoising loss is another such form (Vincent 2011). Here p is the law of x_t, at one noise level or at all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sdesolve.errors import message

from ..denoiser import Denoiser
from ..request import check_states
from .weights import WeightedLoss

__all__ = ["ExplicitLoss", "ImplicitLoss", "SlicedLoss"]

DIRECTIONS = ("rademacher", "normal")

NOISELESS = ("score", "energy")
"""The predictions whose score is finite where there is no noise."""


@dataclass(frozen=True, kw_only=True)
class _ScoreLoss(WeightedLoss):
    """2 w(t) sigma(t)^2 J(t), or J at one level: J is half a squared error of the score, up to a constant."""

    level: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level is not None and not self.level >= 0:
            raise ValueError(message("level", repr(self.level), "None, or a time of the process from 0 on"))

    def __call__(self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Losses ``(batch,)`` of the examples x0, ``(batch, *state)``; their mean estimates the loss.

        Times, noise and directions come from `generator` (default: torch's global one).
        """
        if self.level is None:
            t, counts, noise = self._draw(denoiser, x0, generator)
            return 2 * counts * self.objective(denoiser, t, denoiser.process.perturb(t, x0, noise), generator)
        if self.level > denoiser.process.end:
            raise ValueError(
                message("level", repr(self.level), f"0 to the end of the process, {denoiser.process.end!r}")
            )
        check_states("x0", x0)
        t = torch.full(x0.shape[:1], self.level, dtype=x0.dtype, device=x0.device)
        x = x0
        if self.level == 0:
            _check_noiseless(denoiser, x0)
        if self.level > 0:
            noise = torch.randn(x0.shape, dtype=x0.dtype, device=x0.device, generator=generator)
            x = denoiser.process.perturb(t, x0, noise)
        return self.objective(denoiser, t, x, generator)

    @abstractmethod
    def objective(self, denoiser: Denoiser, t: Tensor, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """J / D at given times ``(batch,)`` and states x = x_t ``(batch, *state)``: ``(batch,)``."""

    def _space(self, denoiser: Denoiser) -> str:
        return "score"


def _check_noiseless(denoiser: Denoiser, x: Tensor) -> None:
    """The score of every other prediction is divided by sigma(0), which is 0."""
    if denoiser.prediction in NOISELESS or float(denoiser.process.sigma(x.new_zeros(()))) > 0:
        return
    got = f"0 with a denoiser that predicts {denoiser.prediction!r}, whose score is divided by sigma(0) = 0"
    accepted = f"0 with prediction={' or '.join(map(repr, NOISELESS))}"
    raise ValueError(message("level", got, accepted, "Or choose a level with noise, above 0."))


@dataclass(frozen=True, kw_only=True)
class ExplicitLoss(_ScoreLoss):
    """Score matching where the true score is known: J = 1/2 |s(t, x_t) - grad log p_t(x_t)|^2.

    Parameters
    ----------
    exact : the true score: a :class:`diffusion.Denoiser`, such as ``mixture.denoiser(process)``, or a function
        ``exact(t, x)`` of times ``(batch,)`` and states.
    level : a single time of the process, 0 for the data as they are; the loss is then E[J] / D there. Default None:
        over all times, weighted as the following say.
    weighting, times, t_min, t_max, gamma, mean, std : as for :class:`diffusion.DenoisingLoss`, from whose mean the mean
        of this loss, int 2 w sigma^2 E[J] dt / D, then differs by a number that does not depend on the denoiser.

    Raises
    ------
    TypeError : exact cannot be called. ValueError : as :class:`diffusion.DenoisingLoss`; a level outside the process.

    References
    ----------
    Hyvarinen (2005). Estimation of non-normalized statistical models by score matching. JMLR 6. Eq. (2).
    """

    exact: Denoiser | Callable[[Tensor, Tensor], Tensor] = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.exact):
            raise TypeError(
                message("exact", type(self.exact).__name__, "a diffusion.Denoiser, or a function of (t, x)")
            )

    def objective(self, denoiser: Denoiser, t: Tensor, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        true = self.exact.score(t, x) if isinstance(self.exact, Denoiser) else self.exact(t, x)
        return 0.5 * (denoiser.score(t, x) - true.detach()).flatten(1).square().mean(1)

    def __repr__(self) -> str:
        kind = type(self.exact) if isinstance(self.exact, nn.Module) else self.exact
        shared = ", ".join(f"{name}={getattr(self, name)!r}" for name in _ScoreLoss.__dataclass_fields__)
        return f"ExplicitLoss(exact={getattr(kind, '__qualname__', type(kind).__name__)}, {shared})"


@dataclass(frozen=True, kw_only=True)
class ImplicitLoss(_ScoreLoss):
    """Score matching by the model's divergence: J = |s|^2 / 2 + div s, one vector-Jacobian product a component.

    It needs no score but the model's. A model of a score wants to be called at ``level=0`` with ``prediction="score"``:
    that is classical score matching, for any differentiable model of data without noise.

    Parameters
    ----------
    level, weighting, times, t_min, t_max, gamma, mean, std : as for :class:`ExplicitLoss`.
    chunk : products taken at a time, to bound memory. Default: all.

    References
    ----------
    Hyvarinen (2005). Estimation of non-normalized statistical models by score matching. JMLR 6. Theorem 1.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [2.0]])  # of the model N(0, 1): s = -x, J = x^2 / 2 - 1
    >>> model = Denoiser(lambda t, x: -x, VP(), prediction="score")
    >>> ImplicitLoss(level=0.0)(model, x)
    tensor([-1.,  1.])
    """

    chunk: int | None = None

    def objective(self, denoiser: Denoiser, t: Tensor, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        size = x[0].numel()
        unit = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
        score, curvatures = _along(denoiser, t, x, unit.expand(-1, *x.shape), self.chunk)
        return (0.5 * score.flatten(1).square().sum(1) + curvatures.sum(0)) / size


@dataclass(frozen=True, kw_only=True)
class SlicedLoss(_ScoreLoss):
    """Score matching along random directions: J = |s|^2 / 2 + v^T (ds/dx) v, averaged over the slices.

    Parameters
    ----------
    slices : directions v for each example; default 1.
    directions : ``"rademacher"``, random signs, the default; or ``"normal"``.
    reduced : whether |s|^2 stands in the place of (v^T s)^2, whose expectation it is; default True. With signs the loss
        is then exact where ds/dx is diagonal.
    level, weighting, times, t_min, t_max, gamma, mean, std : as for :class:`ExplicitLoss`.

    Raises
    ------
    ValueError : slices below 1, unknown directions; as :class:`ExplicitLoss`.

    References
    ----------
    Song, Garg, Shi & Ermon (2019). Sliced score matching: a scalable approach to density and score estimation. UAI.
    Section 3, with (v^T s)^2, and with |s|^2 (variance reduction).
    """

    slices: int = 1
    directions: str = "rademacher"
    reduced: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slices < 1:
            raise ValueError(message("slices", repr(self.slices), "at least 1"))
        if self.directions not in DIRECTIONS:
            raise ValueError(message("directions", repr(self.directions), " or ".join(map(repr, DIRECTIONS))))

    def objective(self, denoiser: Denoiser, t: Tensor, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        v = torch.randn((self.slices, *x.shape), dtype=x.dtype, device=x.device, generator=generator)
        return self.along(denoiser, t, x, torch.where(v < 0, -1.0, 1.0).to(x) if self.directions == "rademacher" else v)

    def along(self, denoiser: Denoiser, t: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """J / D for given directions ``(slices, batch, *state)``, averaged over them: ``(batch,)``."""
        score, curvatures = _along(denoiser, t, x, v)
        squares = score.square() if self.reduced else (v * score).flatten(2).sum(2).square().mean(0)[:, None]
        return (0.5 * squares.flatten(1).sum(1) + curvatures.mean(0)) / x[0].numel()


def _along(denoiser: Denoiser, t: Tensor, x: Tensor, v: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The score, and v^T (ds/dx) v for directions ``(n, batch, *state)``: ``(n, batch)``."""
    pulled = torch.func.vjp(lambda x: denoiser.score(t, x), x)
    score, pull_back = pulled[0], pulled[1]
    (products,) = torch.vmap(pull_back, chunk_size=chunk)(v)
    return score, (products * v).flatten(2).sum(2)

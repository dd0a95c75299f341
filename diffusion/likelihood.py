"""log_likelihood(): the log-density that a denoiser gives to data, by the probability-flow ODE.

With F(t, x) the right-hand side of the probability flow, along its solution from (t_min, x) to (t_max, x_T):

    log p(x) = log prior(x_T) + int_{t_min}^{t_max} div F(t, x_t) dt
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from .denoiser import Denoiser
from .prior import trajectory_normals
from .reverse import probability_flow

__all__ = ["LogLikelihood", "log_likelihood"]

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LogLikelihood:
    """What :func:`log_likelihood` returns; everything is ``(batch,)`` unless said otherwise.

    log_prob : in nats; with several probes, their mean.
    std_error : standard error of the mean over probes; zero for the exact trace, None for a single probe.
    prior_gap : log p_T(x_T) - log prior(x_T) where p_T is known, else None: what the log-likelihood lost
        because the prior is not quite the marginal at t_max.
    latent : x_T, ``(batch, *state)``.
    stats : of the solve.
    """

    log_prob: Tensor
    std_error: Tensor | None
    prior_gap: Tensor | None
    latent: Tensor
    stats: ss.Stats


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    trace: str = "exact",
    probes: int = 1,
    seed: int = 0,
    paths: Sequence[int] | Tensor | None = None,
    t_min: float = 1e-5,
    t_max: float | None = None,
    prior: Any = None,
    marginal: Any = None,
    method: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    dt: float | None = None,
    chunk: int | None = None,
    adjoint: str = "direct",
    compile: bool = False,
    progress: bool | Report = False,
) -> LogLikelihood:
    """The log-likelihood of x under the probability flow of a denoiser.

    Differentiable with respect to x and the parameters of the denoiser; write ``with torch.no_grad():``
    around it where that is not wanted, as a graph of the whole solve takes memory. With ``compile=True`` gradients
    need ``adjoint="backsolve"``, and what needs none ``torch.no_grad()``.

    Parameters
    ----------
    denoiser : a :class:`diffusion.Denoiser`, in evaluation mode.
    x : ``(batch, *state)``.
    trace : how the divergence is found: ``"exact"``, D vector-Jacobian products for D components; or
        ``"hutchinson"``, v^T (dF/dx) v averaged over random signs v, which are drawn once and kept throughout
        the solve.
    probes : number of v for ``"hutchinson"``; solved jointly, each with its own log-density.
    seed, paths : the probes of trajectory i depend on seed and paths[i] (default i) alone.
    t_min, t_max : the span of the ODE; default 1e-5 and the process's end. The density is that of the data at t_min.
        Exact denoisers may be asked for t_min = 0; a network's score grows like 1 / sigma there.
    prior : the density at t_max: an object with ``log_prob(x) -> (batch,)``, or such a function. Default: the
        prior of the process.
    marginal : the true density at t_max, in the same form, where it is known; only for ``prior_gap``. An
        exact denoiser brings its own.
    method, rtol, atol, dt, adjoint, compile, progress : as in :func:`sdesolve.solve`; by default ``"tsit5"`` with its
        tolerances.
    chunk : vector-Jacobian products taken at a time, to bound memory. Default: all.

    Raises
    ------
    ValueError : an unknown trace, probes below 1 or with the exact trace, times out of order.

    References
    ----------
    Chen, Rubanova, Bettencourt, Duvenaud (2018). Neural ordinary differential equations. NeurIPS. Theorem 1.
    Grathwohl et al. (2019). FFJORD. ICLR. Section 3.1, for the fixed probe.
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR.
    Section 4.3.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    t_max = denoiser.flow_end if t_max is None else t_max
    if trace not in ("exact", "hutchinson"):
        raise ValueError(message("trace", repr(trace), "'exact' or 'hutchinson'"))
    if probes < 1 or (trace == "exact" and probes != 1):
        accepted = "at least 1 for trace='hutchinson', 1 for trace='exact'"
        raise ValueError(message("probes", f"{probes} for trace={trace!r}", accepted))
    if not 0 <= t_min < t_max:
        raise ValueError(message("t_min, t_max", f"{t_min!r} and {t_max!r}", "0 <= t_min < t_max"))
    if x.ndim < 2:
        raise ValueError(message("x", f"shape {tuple(x.shape)}", "(batch, *state)"))
    log_prior = _log_density("prior", denoiser.process.prior_at(t_max) if prior is None else prior)
    log_marginal = _marginal(denoiser, marginal, t_max)

    probe = None if trace == "exact" else _random_signs(x, probes, seed, paths)
    flow = _FlowWithDivergence(denoiser, probe, chunk)
    columns = 1 if trace == "exact" else probes
    solution = ss.solve(
        ss.ODE(flow),
        (x, x.new_zeros(x.shape[0], columns)),
        torch.tensor([t_min, t_max], dtype=torch.float64, device=x.device),
        method=method,
        rtol=rtol,
        atol=atol,
        dt=dt,
        adjoint=adjoint,
        compile=compile,
        progress=progress,
    )
    latent, gained = solution.ys[0][-1], solution.ys[1][-1]
    at_prior = log_prior(latent)
    std_error = gained.std(1) / math.sqrt(probes) if probes > 1 else None
    return LogLikelihood(
        log_prob=at_prior + gained.mean(1),
        std_error=torch.zeros_like(at_prior) if trace == "exact" else std_error,
        prior_gap=None if log_marginal is None else log_marginal(latent) - at_prior,
        latent=latent,
        stats=solution.stats,
    )


class _FlowWithDivergence(nn.Module):
    """(x, l) -> (F(t, x), div F(t, x)), one divergence for each probe, or one in all for the exact trace (no probe)."""

    def __init__(self, denoiser: Denoiser, probe: Tensor | None, chunk: int | None) -> None:
        super().__init__()
        self.flow = probability_flow(denoiser.process, denoiser)
        self.probe, self.chunk = probe, chunk

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x = state[0]
        pulled = torch.func.vjp(lambda x: self.flow.f(t, x), x)
        velocity, pull_back = pulled[0], pulled[1]
        probe = _unit_vectors(x) if self.probe is None else self.probe
        (products,) = torch.vmap(pull_back, chunk_size=self.chunk)(probe)
        terms = (products * probe).flatten(2).sum(2)
        return velocity, terms.sum(0)[:, None] if self.probe is None else terms.T


def _unit_vectors(x: Tensor) -> Tensor:
    """One for each component of a trajectory, ``(D, batch, *state)``."""
    unit = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])
    return unit.expand(-1, *x.shape)


def _random_signs(x: Tensor, probes: int, seed: int, paths: Sequence[int] | Tensor | None) -> Tensor:
    """+1 and -1 with equal probability, ``(probes, batch, *state)``."""
    normals = trajectory_normals(
        seed, "probes", (x.shape[0], probes, *x.shape[1:]), paths=paths, dtype=x.dtype, device=x.device
    )
    return torch.where(normals < 0, -1.0, 1.0).to(x.dtype).transpose(0, 1)


def _log_density(name: str, density: Any) -> LogDensity:
    found = getattr(density, "log_prob", density)
    if not callable(found):
        raise TypeError(message(name, type(density).__name__, "an object with log_prob(x), or a function of x"))
    return found


def _marginal(denoiser: Denoiser, marginal: Any, t_max: float) -> LogDensity | None:
    if marginal is not None:
        return _log_density("marginal", marginal)
    known = getattr(denoiser, "log_prob", None)
    return None if known is None else lambda x: known(t_max, x)

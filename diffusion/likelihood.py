"""log_likelihood(): the log-density that a denoiser gives to data, by the probability-flow ODE.

With F(t, x) the right-hand side of the probability flow, along its solution from (t_min, x) to (t_max, x_T):

    log p(x) = log prior(x_T) + int_{t_min}^{t_max} div F(t, x_t) dt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from .denoiser import Denoiser
from .prior import LogDensity, log_density
from .quantise import bits_per_dimension
from .request import check_span, check_states
from .reverse import probability_flow
from .trace import Trace, trace_estimator
from .truncation import truncation

__all__ = ["LogLikelihood", "log_likelihood"]

#: default rtol and atol by dtype
TOLERANCES = {torch.float32: (1e-5, 1e-7), torch.float64: (1e-8, 1e-8)}
#: below this rtol a method of order 7 needs fewer evaluations than one of order 5
TIGHT = 1e-6


@dataclass(frozen=True)
class LogLikelihood:
    """What :func:`log_likelihood` returns; everything is ``(batch,)`` unless said otherwise.

    log_prob : in nats; with several probes, their mean.
    std_error : standard error of the mean over probes (with ``"hutch++"``, those of the rest); zero for the exact
        trace, None for a single probe.
    prior_gap : log p_T(x_T) - log prior(x_T) where p_T is known, else None: what the log-likelihood lost
        because the prior is not quite the marginal at t_max.
    latent : x_T, ``(batch, *state)``.
    stats : of the solve.
    truncation : log p(x) at t_min less that of the data at 0: zero for t_min = 0, exact for exact denoisers (None if
        their data have no density), else to first order in the noise at t_min, from the denoiser's score there; see
        `diffusion.truncation`. Of use where it is small: a density that varies on the scale of sigma(t_min) has more
        to it than the first order. ``log_prob - truncation`` estimates log p_0(x), and ``log_prob - truncation +
        prior_gap`` what it would be with p_T for the prior: of an exact denoiser, the density of the data.
        Carries no gradient.
    """

    log_prob: Tensor
    std_error: Tensor | None
    prior_gap: Tensor | None
    latent: Tensor
    stats: ss.Stats
    truncation: Tensor | None = None

    def bits_per_dimension(self, *, levels: int, range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
        """Of data that :func:`diffusion.dequantise` made of so many levels, ``(batch,)``."""
        return bits_per_dimension(self.log_prob, self.latent[0].numel(), levels=levels, range=range)


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    trace: str = "exact",
    probe: str | None = None,
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
    trace : how the divergence is found; see `diffusion.trace`. What is random is drawn once and kept throughout the
        solve.

        - ``"exact"``: D vector-Jacobian products for D components;
        - ``"hutchinson"``: v^T (dF/dx) v averaged over random v, one product each;
        - ``"hutch++"``: exactly on the span of a third of the products, ``"hutchinson"`` on the rest. Better where
          few directions make most of the trace. Exact where a third of the products is D or more.
    probe : the law of v: ``"rademacher"`` (random signs), ``"gaussian"``, or ``"sphere"`` (uniform on the sphere of
        radius sqrt(D)). Default: ``"sphere"`` for ``"hutch++"``, which is then exact where the flow only scales, as it
        does far from data; else ``"rademacher"``, with which ``"hutchinson"`` is.
    probes : vector-Jacobian products at a time: the number of v for ``"hutchinson"``, at least 3 for ``"hutch++"``,
        which turns every third into a v. All are solved jointly, each v with its own log-density.
    seed, paths : the probes of trajectory i depend on seed and paths[i] (default i) alone.
    t_min, t_max : the span of the ODE; default 1e-5 and the process's end. The density is that of the data at t_min.
        Exact denoisers may be asked for t_min = 0; a network's score grows like 1 / sigma there.
    prior : the density at t_max: an object with ``log_prob(x) -> (batch,)``, or such a function. Default: the
        prior of the process.
    marginal : the true density at t_max, in the same form, where it is known; only for ``prior_gap``. An
        exact denoiser brings its own.
    method, rtol, atol, dt, adjoint, compile, progress : as in :func:`sdesolve.solve`. Default tolerances: 1e-5 and 1e-7
        in float32, 1e-8 and 1e-8 in float64, which leaves an error near 1e-7 in smooth log-densities; default method
        ``"vern7"`` for rtol below 1e-6, else ``"tsit5"``. x and the log-density are held to them each by itself: the
        mean squares of both errors count the same in any dimension, and the log-density has D times `atol`.
    chunk : vector-Jacobian products taken at a time, to bound memory. Default: all.

    Raises
    ------
    ValueError : an unknown trace or probe, too few probes or several with the exact trace, times out of order or
        outside the process, no states.

    References
    ----------
    Chen, Rubanova, Bettencourt, Duvenaud (2018). Neural ordinary differential equations. NeurIPS. Theorem 1.
    Grathwohl et al. (2019). FFJORD. ICLR. Section 3.1, for the fixed probe.
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR.
    Section 4.3.
    Meyer, Musco, Musco & Woodruff (2021). Hutch++: optimal stochastic trace estimation. SOSA.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(message("denoiser", type(denoiser).__name__, "a diffusion.Denoiser"))
    t_max = denoiser.flow_end if t_max is None else t_max
    check_span(denoiser, False, t_min, t_max)
    check_states("x", x)
    log_prior = log_density("prior", denoiser.process.prior_at(t_max) if prior is None else prior)
    log_marginal = _marginal(denoiser, marginal, t_max)

    if probe is None:
        probe = "sphere" if trace == "hutch++" else "rademacher"
    estimator = trace_estimator(trace, probes, probe, x, seed=seed, paths=paths, chunk=chunk)
    tolerances: tuple[Tensor | None, Tensor | None] = (None, None)
    if dt is None or rtol is not None or atol is not None:
        known = TOLERANCES.get(x.dtype, TOLERANCES[torch.float32])
        rtol, atol = known[0] if rtol is None else rtol, known[1] if atol is None else atol
        tolerances = _tolerances(x, estimator.columns, rtol, atol)
        method = "vern7" if method is None and rtol < TIGHT else method
    solution = ss.solve(
        ss.ODE(_FlowWithDivergence(denoiser, estimator)),
        (x, x.new_zeros(x.shape[0], estimator.columns)),
        torch.tensor([t_min, t_max], dtype=torch.float64, device=x.device),
        method=method,
        rtol=tolerances[0],
        atol=tolerances[1],
        dt=dt,
        adjoint=adjoint,
        compile=compile,
        progress=progress,
    )
    latent, gained = solution.ys[0][-1], solution.ys[1][-1]
    at_prior = log_prior(latent)
    return LogLikelihood(
        log_prob=at_prior + estimator.mean(gained),
        std_error=estimator.std_error(gained),
        prior_gap=None if log_marginal is None else log_marginal(latent) - at_prior,
        latent=latent,
        stats=solution.stats,
        truncation=truncation(denoiser, x, t_min, estimator),
    )


class _FlowWithDivergence(nn.Module):
    """(x, l) -> (F(t, x), div F(t, x)), with a column of l for each estimate of the divergence."""

    def __init__(self, denoiser: Denoiser, trace: Trace) -> None:
        super().__init__()
        self.flow = probability_flow(denoiser.process, denoiser)
        self.trace = trace

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        velocity, divergence = self.trace(lambda x: self.flow.f(t, x), state[0])
        return velocity, divergence


def _tolerances(x: Tensor, columns: int, rtol: float, atol: float) -> tuple[Tensor, Tensor]:
    """Tolerances of (x, l) with which the mean square of x's errors and that of l's count the same, however many
    components each has; a log-density, a sum over D components, has D times the absolute tolerance of one."""
    ss.PID(rtol, atol)  # refuses what are no tolerances
    dims = x[0].numel()
    of_x, of_l = (x.new_full((1, count), (2 * count / (dims + columns)) ** 0.5) for count in (dims, columns))
    return rtol * torch.cat([of_x, of_l], 1), atol * torch.cat([of_x, dims * of_l], 1)


def _marginal(denoiser: Denoiser, marginal: Any, t_max: float) -> LogDensity | None:
    if marginal is not None:
        return log_density("marginal", marginal)
    known = getattr(denoiser, "log_prob", None)
    return None if known is None else lambda x: known(t_max, x)

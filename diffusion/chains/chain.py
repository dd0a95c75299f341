"""A discrete chain from data to noise: its marginals, its posteriors, its ancestral sampling, and its process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import sdesolve as ss
from sdesolve.errors import message
from sdesolve.progress import Report

from ..ancestral import Ancestral, Transitions
from ..denoiser import Denoiser
from ..kernels import Posterior, Transition
from ..process import Process
from ..reverse import Eta, Score, reverse_sde

__all__ = ["Chain", "Index"]

Index = int | Tensor
"""The number of a step, or a tensor of ints."""


class Chain:
    """A chain of N steps  x_i | x_(i-1) ~ N(c_i x_(i-1), v_i I).

    Attributes, in float64: ``factors`` c and ``step_variances`` v, ``(N,)``, entry i - 1 of step i; ``alphas`` and
    ``variances`` sigma^2 of the marginals, ``(N + 1,)``, entry i of x_i. ``process``: see the module.
    """

    process: Process

    def __init__(self, factors: Tensor, step_variances: Tensor, alphas: Tensor, variances: Tensor) -> None:
        self.factors, self.step_variances, self.alphas, self.variances = factors, step_variances, alphas, variances

    @property
    def steps(self) -> int:
        """N."""
        return len(self.factors)

    @property
    def sigmas(self) -> Tensor:
        """Standard deviations of the noise of the marginals, ``(N + 1,)``."""
        return torch.sqrt(self.variances)

    def transition(self, i: Index) -> Transition:
        """x_i | x_(i-1), for i from 1 to N, an int or a tensor of ints."""
        c, v = self._at(self.factors, i, 1), self._at(self.step_variances, i, 1)
        return Transition(c, torch.zeros_like(c), torch.sqrt(v))

    def marginal(self, i: Index) -> Transition:
        """x_i | x_0, for i from 0 to N."""
        alpha = self._at(self.alphas, i, 0)
        return Transition(alpha, torch.zeros_like(alpha), torch.sqrt(self._at(self.variances, i, 0)))

    def posterior(self, i: Index) -> Posterior:
        """x_(i-1) | x_i, x_0, for i from 1 to N: with s^2 = sigma_(i-1)^2 and t^2 = sigma_i^2,

            mean (c_i s^2 x_i + alpha_(i-1) v_i x_0) / t^2,      variance v_i s^2 / t^2

        References
        ----------
        Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Eqs. (6)-(7).
        """
        c, v = self._at(self.factors, i, 1), self._at(self.step_variances, i, 1)
        before, after = self._at(self.variances[:-1], i, 1), self._at(self.variances[1:], i, 1)
        data = self._at(self.alphas[:-1], i, 1) * v / after
        return Posterior(c * before / after, data, torch.zeros_like(c), torch.sqrt(v * before / after))

    def reverse(self, score: Denoiser | Score, i: int, x: Tensor, variance: str = "posterior") -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(x_(i-1) | x_i = x), for i from 1 to N:  mean (x + v_i score) / c_i.

        The same as :meth:`posterior` with the denoiser's data for x_0.

        Parameters
        ----------
        score : a denoiser of ``process``, or ``score(t, x)`` with t = i / N.
        x : ``(batch, *state)``.
        variance : ``"posterior"``, v_i sigma_(i-1)^2 / sigma_i^2; ``"forward"``, v_i, and 0 for i = 1.

        References
        ----------
        Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Eq. (11), algorithm 2.
        Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eq. (4),
        appendix F.
        """
        forward, t = self.transition(i), torch.tensor(i / self.steps, dtype=x.dtype, device=x.device)
        found = score.score(t, x) if isinstance(score, Denoiser) else score(t, x)
        mean = (x + (forward.std**2).to(x) * found) / forward.scale.to(x)
        std = self.posterior(i).std if Ancestral(variance).variance == "posterior" or i == 1 else forward.std
        return mean, std.to(x)

    def denoiser(
        self, net: Callable[[Tensor, Tensor], Tensor], prediction: str = "noise", *, first: int = 0
    ) -> Denoiser:
        """A network that was trained by this chain as a denoiser of its process.

        Parameters
        ----------
        net : ``net(index, x) -> prediction`` of x's shape, for real index of shape ``(batch,)``: first for x_1, ...,
            first + N - 1 for x_N, and what lies between for times between, where a network with an embedding of reals
            knows what to do. Times before 1 / N give `first`.
        prediction : as for :class:`diffusion.Denoiser`, less ``"edm"``. Default ``"noise"``.
        first : what the network calls the first step. Default 0, as most code counts; 1 in the papers.
        """
        if prediction == "edm":
            raise ValueError(
                message("prediction", repr(prediction), "what a network says at an index", "See Denoiser.")
            )
        return Denoiser(_Indexed(net, self.steps, first), self.process, prediction)

    def simulate(
        self,
        x0: Tensor,
        *,
        seed: int | None = None,
        paths: Sequence[int] | Tensor | None = None,
        trajectory: int = 1,
        compile: bool = False,
        progress: bool | Report = False,
    ) -> ss.Solution:
        """From data x_0, ``(batch, *state)``, to noise x_N, step by step: x_N is ``ys[-1]``.

        Parameters
        ----------
        seed, paths : as in :func:`sdesolve.solve`: row i depends on x0[i], seed and paths[i] alone.
        trajectory : k, for x at k + 1 times t = i / N, every N / k steps; k must divide N. Default 1.
        compile, progress : as in :func:`sdesolve.solve`.
        """
        ts, method = self._times(trajectory).flip(0), Transitions(self.process)
        sde, dt = self.process.forward_sde(), 1 / self.steps
        options: dict[str, Any] = {"seed": seed, "paths": paths, "compile": compile, "progress": progress}
        return ss.solve(sde, x0, ts.to(x0.device), method=method, dt=dt, **options)

    def sample(
        self,
        score: Denoiser | Score,
        start: Tensor | Sequence[int],
        *,
        variance: str = "posterior",
        eta: Eta = 1.0,
        seed: int | None = None,
        paths: Sequence[int] | Tensor | None = None,
        trajectory: int = 1,
        compile: bool = False,
        progress: bool | Report = False,
    ) -> ss.Solution:
        """The reverse chain from x_N to x_0, N calls of the denoiser: ancestral sampling. The samples are ``ys[-1]``.

        Parameters
        ----------
        score, variance : as for :meth:`reverse`, whose steps these are.
        start : x_N, ``(batch, *state)``; or a shape, for draws from N(0, sigma_N^2 I) in the default dtype.
        eta : from 0, DDIM's steps without noise, to 1, the default; see :class:`diffusion.Ancestral`.
        seed, paths, trajectory, compile, progress : as for :meth:`simulate`.

        References
        ----------
        Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Algorithm 2.
        Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Appendix F.
        """
        seed = int(torch.randint(2**63 - 1, ())) if seed is None else seed
        if not isinstance(start, Tensor):
            start = self.process.prior.sample(start, seed=seed, paths=paths)
        sde, method = reverse_sde(self.process, score, eta), Ancestral(variance)
        ts, dt = self._times(trajectory).to(start.device), 1 / self.steps
        with torch.no_grad():
            options: dict[str, Any] = {"seed": seed, "paths": paths, "compile": compile, "progress": progress}
            return ss.solve(sde, start, ts, method=method, dt=dt, **options)

    def _times(self, trajectory: int) -> Tensor:
        if trajectory < 1 or self.steps % trajectory:
            raise ValueError(message("trajectory", repr(trajectory), f"a divisor of the {self.steps} steps"))
        return torch.linspace(1, 0, trajectory + 1, dtype=torch.float64)

    def _at(self, values: Tensor, i: Index, first: int) -> Tensor:
        index = torch.as_tensor(i)
        if index.is_floating_point() or bool(((index < first) | (index > self.steps)).any()):
            raise ValueError(message("i", repr(i), f"integers from {first} to {self.steps}"))
        return values[(index - first).to(values.device)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.steps} steps)"


class _Indexed(nn.Module):
    """A network of the index, as one of the time t = (index + 1 - first) / N."""

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], steps: int, first: int) -> None:
        super().__init__()
        if not callable(net):
            raise TypeError(message("net", type(net).__name__, "a module or function net(index, x) -> tensor"))
        self.net, self.steps, self.first = net, steps, first

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        index = (t.double() * self.steps - 1).clamp(min=0)
        # a float32 time is off by its rounding
        nearest = index.round()
        index = torch.where((index - nearest).abs() < 1e-7 * self.steps, nearest, index)
        return self.net((self.first + index).to(t.dtype), x)

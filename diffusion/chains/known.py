"""The discrete chains that diffusion models began with, and the processes whose marginals they have.

    DDPM    x_i = sqrt(1 - beta_i) x_(i-1) + sqrt(beta_i) eps_i                      ->  VP as N grows
    NCSN    x_i = x_(i-1) + sqrt(sigma_i^2 - sigma_(i-1)^2) eps_i,   sigma_0 = 0     ->  VE

for i = 1, ..., N, from data x_0. Marginals are x_i | x_0 ~ N(alpha_i x_0, sigma_i^2 I). A chain's ``process`` has these
marginals at the times t = i / N, and smooth ones between; a network that was trained by the chain is a
:class:`diffusion.Denoiser` of it (:meth:`diffusion.chains.Chain.denoiser`), for every sampler and for likelihoods.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdesolve.errors import message

from ..process import Process
from ..processes import Affine, VariancePreserving
from .chain import Chain
from .monotone import Monotone

__all__ = ["DDPMChain", "NCSNChain"]


class DDPMChain(Chain):
    """x_i = sqrt(1 - beta_i) x_(i-1) + sqrt(beta_i) eps_i.

    ::

        alpha_i^2 = prod_(j <= i) (1 - beta_j),      sigma_i^2 = 1 - alpha_i^2

    Its process is `VariancePreserving` with B(i/N) = -log alpha_i^2.

    Parameters
    ----------
    betas : ``(N,)``, between 0 and 1, N >= 2; such as ``torch.linspace(1e-4, 0.02, 1000)``, that of Ho et al.

    References
    ----------
    Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. NeurIPS. Eqs. (2), (4).
    """

    def __init__(self, betas: Tensor) -> None:
        betas = _sequence("betas", betas)
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(message("betas", f"from {float(betas.min())} to {float(betas.max())}", "between 0 and 1"))
        B = _from_zero(-torch.log1p(-betas).cumsum(0))
        super().__init__(torch.sqrt(1 - betas), betas, torch.exp(-0.5 * B), -torch.expm1(-B))
        integral = Monotone(B)
        self.process = VariancePreserving(integral.rate, integral)

    @classmethod
    def of(cls, process: Process, steps: int) -> DDPMChain:
        """beta_i = beta(i end / N) end / N for a variance-preserving process, whose marginals it has up to O(1/N).

        References
        ----------
        Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eqs.
        (10)-(11), appendix B, and there with beta at (i - 1)/(N - 1).
        """
        t = _preserved(process, steps)
        betas = -2 * process.drift_rate(t[1:]) * process.end / steps
        if not bool((betas < 1).all()):
            got, advice = f"{steps}, which makes beta_i = {float(betas.max()):.3g}", "Or take DDPMChain.matching."
            raise ValueError(message("steps", got, f"above {int(steps * float(betas.max()))}", advice))
        return cls(betas)

    @classmethod
    def matching(cls, process: Process, steps: int) -> DDPMChain:
        """1 - beta_i = (alpha(t_i) / alpha(t_(i-1)))^2, t_i = i end / N: the marginals of a variance-preserving process
        at these times.

        References
        ----------
        Nichol & Dhariwal (2021). Improved denoising diffusion probabilistic models. ICML. Section 3.2, for `Cosine`.
        """
        log_alpha = torch.log(process.alpha(_preserved(process, steps)))
        return cls(-torch.expm1(2 * log_alpha.diff()))


class NCSNChain(Chain):
    """x_i = x_(i-1) + sqrt(sigma_i^2 - sigma_(i-1)^2) eps_i, sigma_0 = 0: the chain of score matching with Langevin
    dynamics (SMLD).

    Its process has alpha = 1 and sigma(i/N) = sigma_i.

    Parameters
    ----------
    sigmas : ``(N,)``, positive and strictly rising, N >= 2.

    References
    ----------
    Song & Ermon (2019). Generative modeling by estimating gradients of the data distribution. NeurIPS.
    Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Eqs. (8)-(9),
    appendix B.
    """

    def __init__(self, sigmas: Tensor) -> None:
        sigmas = _from_zero(_sequence("sigmas", sigmas))
        if not bool((sigmas.diff() > 0).all()):
            raise ValueError(message("sigmas", "values that do not rise from above 0", "positive, rising ones"))
        steps = sigmas.diff() * (sigmas[1:] + sigmas[:-1])
        super().__init__(torch.ones_like(steps), steps, torch.ones_like(sigmas), sigmas**2)
        variance = Monotone(self.variances)
        self.process = Affine(
            torch.zeros_like,
            None,
            lambda t: torch.sqrt(variance.rate(t)),
            alpha=torch.ones_like,
            sigma=lambda t: torch.sqrt(variance(t)),
        )

    @classmethod
    def of(cls, process: Process, steps: int) -> NCSNChain:
        """sigma_i = sigma(i end / N) of a process with alpha = 1, such as `VE` or `EDM`, whose marginals it has."""
        t = _grid(process, steps)
        if process.shifted or not bool((process.alpha(t) == 1).all()):
            raise ValueError(message("process", repr(process), "one with alpha = 1, such as diffusion.VE()"))
        return cls(process.sigma(t[1:]))

    @classmethod
    def geometric(cls, sigma_min: float, sigma_max: float, steps: int) -> NCSNChain:
        """sigma_i = sigma_min (sigma_max / sigma_min)^((i - 1)/(N - 1)), the sequence of the literature.

        As N grows its marginals go to sigma_min^2 r^(2 t), r = sigma_max / sigma_min, at first order: those of `VE`,
        sigma_min^2 (r^(2 t) - 1), from data that are blurred by sigma_min already.

        References
        ----------
        Song et al. (2021). Score-based generative modeling through stochastic differential equations. ICLR. Appendix C.
        """
        if not (0 < sigma_min < sigma_max):
            got = f"{sigma_min!r} and {sigma_max!r}"
            raise ValueError(message("sigma_min, sigma_max", got, "0 < sigma_min < sigma_max"))
        ends = torch.log(torch.tensor([sigma_min, sigma_max], dtype=torch.float64))
        return cls(torch.exp(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64)))


def _sequence(name: str, values: Tensor) -> Tensor:
    found = torch.as_tensor(values).detach().double()
    if found.ndim != 1 or len(found) < 2:
        raise ValueError(message(name, f"shape {tuple(found.shape)}", "(N,), N >= 2"))
    return found


def _from_zero(values: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=values.dtype, device=values.device), values])


def _grid(process: Process, steps: int) -> Tensor:
    if steps < 2:
        raise ValueError(message("steps", repr(steps), "at least 2"))
    return torch.linspace(0, process.end, steps + 1, dtype=torch.float64)


def _preserved(process: Process, steps: int) -> Tensor:
    t = _grid(process, steps)
    if process.shifted or not torch.allclose(process.alpha(t) ** 2 + process.variance(t), torch.ones_like(t)):
        accepted = "a variance-preserving one: VP, VariancePreserving or Cosine"
        raise ValueError(message("process", repr(process), accepted))
    return t

"""What stopping short of the data changes: log p_t(x) - log p_0(x) at a small time t, to first order in the noise.

A process changes the law of the data through alpha, shift and v = sigma^2 alone. At x, with s = grad log p_t(x),
continuity and the heat equation give

    d log p / d alpha = -(D + (x - shift) . s) / alpha + O(v),      d log p / d shift = -sum_i s_i
    d log p / d v     = (div s + |s|^2) / 2

so that, with errors of second order in 1 - alpha, shift and v,

    log p_t(x) - log p_0(x) = (1 - alpha) / alpha (D + (x - shift) . s) - shift sum_i s_i + v / 2 (div s + |s|^2)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser
from .trace import Trace

__all__ = ["first_order_truncation", "truncation"]


def truncation(denoiser: Denoiser, x: Tensor, t: float, trace: Trace) -> Tensor | None:
    """log p_t(x) - log p_0(x), ``(batch,)``: exactly where the denoiser knows both, else to first order.

    None where data have no density. Not differentiated.
    """
    with torch.no_grad():
        known = getattr(denoiser, "log_prob", None)
        if t == 0:
            return torch.zeros_like(x.flatten(1)[:, 0])
        if known is None:
            return first_order_truncation(denoiser, x, t, trace)
        found: Tensor = known(t, x) - known(0.0, x)
        return found if bool(found.isfinite().all()) else None


def first_order_truncation(denoiser: Denoiser, x: Tensor, t: float, trace: Trace) -> Tensor:
    """The formula above, from the score at t and its divergence by the given estimator, ``(batch,)``."""
    process, time = denoiser.process, torch.as_tensor(t, dtype=x.dtype, device=x.device)
    score, divergence = trace(lambda x: denoiser.score(time, x), x)
    alpha, shift, variance = process.alpha(time), process.shift(time), process.variance(time)
    flat, score = process.centred(time, x).flatten(1), score.flatten(1)
    shrunk = (1 - alpha) / alpha * (flat.shape[1] + (flat * score).sum(1))
    return shrunk - shift * score.sum(1) + 0.5 * variance * (trace.mean(divergence) + score.square().sum(1))

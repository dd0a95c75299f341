"""The stiff problems of ``validation``, and SciPy's Radau, an implicit method of order 5 by other authors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.integrate import solve_ivp

from validation.sections.ode_problems import HIRES, OREGONATOR, ROBERTSON, VAN_DER_POL, van_der_pol

__all__ = ["HIRES", "OREGONATOR", "ROBERTSON", "VAN_DER_POL", "radau", "van_der_pol"]


def radau(f: Callable, y0: Sequence[float], ts: Sequence[float], rtol: float, atol: float) -> np.ndarray:
    """(len(ts), d) for f of tensors (1, d); ts[0] is the start."""
    g = lambda t, y: f(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)[None])[0].numpy()
    return solve_ivp(g, (ts[0], ts[-1]), y0, method="Radau", t_eval=ts, rtol=rtol, atol=atol).y.T

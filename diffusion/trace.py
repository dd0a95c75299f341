"""The trace of a Jacobian from vector-Jacobian products: exactly, by Hutchinson's estimate, or by Hutch++.

    exact:       tr J = sum_i e_i^T J e_i
    Hutchinson:  E[v^T J v] = tr J                                          for E[v v^T] = I
    Hutch++:     tr J = tr(Q^T J Q) + E[v^T (I - P) J (I - P) v],           P = Q Q^T

An estimator is a function of J alone: what is random about it is drawn once, so that the estimate is as smooth in time
as J itself, as error control asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sdesolve.errors import message

from .prior import trajectory_normals

__all__ = ["PROBES", "TRACES", "ExactTrace", "Hutchinson", "HutchPlusPlus", "Trace", "trace_estimator"]

TRACES = ("exact", "hutchinson", "hutch++")
PROBES = ("rademacher", "gaussian", "sphere")


class Trace(nn.Module):
    """Divergences of functions of ``(batch, *state)``, from `columns` estimates for each trajectory.

    chunk : vector-Jacobian products taken at a time; None: all.
    """

    columns: int

    def __init__(self, columns: int, chunk: int | None) -> None:
        super().__init__()
        self.columns, self.chunk = columns, chunk

    def forward(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """function(x) and the estimates of its divergence, ``(batch, columns)``, whose mean is the one to use."""
        pulled = torch.func.vjp(function, x)
        value, pull_back = pulled[0], pulled[1]

        def products(v: Tensor) -> Tensor:
            """v^T J for each row of ``(n, batch, *state)``, as ``(n, batch, D)``."""
            (found,) = torch.vmap(pull_back, chunk_size=self.chunk)(v.reshape(-1, *x.shape))
            return found.flatten(2)

        return value, self.estimates(products, x)

    def estimates(self, products: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        raise NotImplementedError

    def mean(self, estimates: Tensor) -> Tensor:
        """``(batch, columns)`` -> ``(batch,)``."""
        return estimates.mean(1)

    def std_error(self, estimates: Tensor) -> Tensor | None:
        """Standard error of the mean, ``(batch,)``; None from one estimate alone."""
        return estimates.std(1) / self.columns**0.5 if self.columns > 1 else None


class ExactTrace(Trace):
    """D products for D components."""

    def __init__(self, chunk: int | None = None) -> None:
        super().__init__(1, chunk)

    def estimates(self, products: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        dims = x[0].numel()
        unit = torch.eye(dims, dtype=x.dtype, device=x.device)[:, None].expand(-1, x.shape[0], -1)
        return (products(unit) * unit).sum((0, 2))[:, None]

    def std_error(self, estimates: Tensor) -> Tensor:
        return torch.zeros_like(estimates[:, 0])


class Hutchinson(Trace):
    """v^T J v for each probe v.

    For a symmetric J with entries J_ij its variance is 2 sum_{i != j} J_ij^2 with Rademacher probes, 2 |J|_F^2 with
    Gaussian ones.

    Parameters
    ----------
    probes : ``(n, batch, D)``.

    References
    ----------
    Hutchinson (1989). A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines.
    Communications in Statistics 18.
    """

    probes: Tensor

    def __init__(self, probes: Tensor, chunk: int | None = None) -> None:
        super().__init__(probes.shape[0], chunk)
        self.register_buffer("probes", probes, persistent=False)

    def estimates(self, products: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return (products(self.probes) * self.probes).sum(2).T


class HutchPlusPlus(Trace):
    """The exact trace on a subspace that holds most of J, Hutchinson's estimate on the rest.

    Q is an orthonormal basis of the span of J^T S. Given S, and with it P = Q Q^T, the estimate is unbiased for every
    square J, as S and the probes are independent and tr(P J (I - P)) = 0; it is exact where J has no greater rank than
    S. It depends on P alone, which is smooth in time wherever J^T S has full rank, though the columns of Q need not be.

    Parameters
    ----------
    sketch : S, ``(k, batch, D)``. probes : ``(n, batch, D)``.
    to_length : give what is left of each probe outside the subspace the length sqrt(D - k). For probes of a law that
        does not change under rotations this stays unbiased, and makes the estimate exact where J is a multiple of the
        identity there, as the Jacobian of a probability flow is in directions that hold no data.

    References
    ----------
    Meyer, Musco, Musco & Woodruff (2021). Hutch++: optimal stochastic trace estimation. SOSA. Algorithm 1.
    Epperly, Tropp & Webber (2024). XTrace: making the most of every sample in stochastic trace estimation. SIAM J.
    Matrix Anal. Appl. 45. Section 2.3, for the lengths.
    """

    sketch: Tensor
    probes: Tensor

    def __init__(self, sketch: Tensor, probes: Tensor, chunk: int | None = None, *, to_length: bool = False) -> None:
        super().__init__(probes.shape[0], chunk)
        self.to_length = to_length
        self.register_buffer("sketch", sketch, persistent=False)
        self.register_buffer("probes", probes, persistent=False)

    def estimates(self, products: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        basis = orthonormal(products(self.sketch))
        rest = outside(basis, self.probes)
        if self.to_length:
            left = x[0].numel() - basis.square().sum((0, 2))[None, :, None]
            rest = rest * torch.sqrt(left / rest.square().sum(2, keepdim=True))
        vectors = torch.cat([basis, rest])
        terms = (products(vectors) * vectors).sum(2)
        inside, others = terms.split([basis.shape[0], self.columns])
        return (inside.sum(0) + others).T


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span of the rows of ``(k, batch, D)`` for each trajectory, by Gram-Schmidt.

    Twice, as rounding asks for; what depends on the rows before it becomes 0.
    """
    basis = columns[:0]
    for column in columns:
        size = torch.linalg.vector_norm(column, dim=-1, keepdim=True)
        rest = outside(basis, outside(basis, column[None]))[0]
        length = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
        new = length > 100 * torch.finfo(column.dtype).eps * size
        basis = torch.cat([basis, torch.where(new, rest / torch.where(new, length, 1.0), 0.0)[None]])
    return basis


def outside(basis: Tensor, vectors: Tensor) -> Tensor:
    """(I - Q Q^T) v, for vectors ``(n, batch, D)``."""
    along = torch.einsum("kbd,nbd->knb", basis, vectors)
    return vectors - torch.einsum("knb,kbd->nbd", along, basis)


def trace_estimator(
    trace: str,
    probes: int,
    probe: str,
    x: Tensor,
    *,
    seed: int,
    paths: Sequence[int] | Tensor | None = None,
    chunk: int | None = None,
) -> Trace:
    """An estimator by name, see :func:`diffusion.log_likelihood`, for states like x, ``(batch, *state)``.

    What is drawn for trajectory i depends on seed and paths[i] (default i) alone.
    """
    if trace not in TRACES:
        raise ValueError(message("trace", repr(trace), " or ".join(map(repr, TRACES))))
    if probe not in PROBES:
        raise ValueError(message("probe", repr(probe), " or ".join(map(repr, PROBES))))
    least = 3 if trace == "hutch++" else 1
    if probes < least or (trace == "exact" and probes != 1):
        accepted = "at least 1 for trace='hutchinson', 3 for trace='hutch++', 1 for trace='exact'"
        raise ValueError(message("probes", f"{probes} for trace={trace!r}", accepted))
    batch, dims = x.shape[0], x[0].numel()

    def drawn(purpose: str, kind: str, count: int) -> Tensor:
        shape = (batch, count, *x.shape[1:])
        normals = trajectory_normals(seed, purpose, shape, paths=paths, dtype=x.dtype, device=x.device)
        return random_vectors(kind, normals.reshape(batch, count, dims).transpose(0, 1))

    if trace == "hutchinson":
        return Hutchinson(drawn("probes", probe, probes), chunk)
    sketched = probes // 3
    if trace == "exact" or sketched >= dims:
        return ExactTrace(chunk)
    rest = drawn("probes", probe, probes - 2 * sketched)
    return HutchPlusPlus(drawn("sketch", "gaussian", sketched), rest, chunk, to_length=probe == "sphere")


def random_vectors(kind: str, normals: Tensor) -> Tensor:
    """Vectors with E[v v^T] = I from normal ones, ``(..., D)``."""
    if kind == "rademacher":
        return torch.where(normals < 0, -1.0, 1.0).to(normals.dtype)
    if kind == "sphere":
        return normals * (normals.shape[-1] ** 0.5 / torch.linalg.vector_norm(normals, dim=-1, keepdim=True))
    return normals

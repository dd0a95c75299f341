"""Attributes of tensors in a user's closure, inside a derivative that a compiled step takes."""

import torch

import sdesolve as ss


def test_a_transposed_matrix_of_a_closure_can_be_differentiated_in_a_compiled_step():
    A = torch.tensor([[0.2, 0.1], [-0.1, 0.3]], dtype=torch.float64)
    sde = ss.SDE(lambda t, y: -y, lambda t, y: torch.sin(y) @ A.T, noise="scalar")
    y0, ts = torch.ones(4, 2, dtype=torch.float64), torch.tensor([0.0, 0.5], dtype=torch.float64)
    eager, compiled = (ss.solve(sde, y0, ts, method="milstein", dt=0.1, seed=0, compile=c).ys for c in (False, True))
    assert torch.allclose(eager, compiled, rtol=1e-12)

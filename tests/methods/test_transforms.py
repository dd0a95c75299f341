"""torch.func.vmap, jvp and jacrev through fixed steps of every ODE method."""

import torch

import sdesolve as ss
from sdesolve.methods import METHODS
from tests.methods.every_ode import each, joined, problem_of, start_of

F64 = torch.float64
TS = torch.tensor([0.0, 0.5], dtype=F64)
Y = torch.tensor([[0.4, 1.2], [0.7, -0.3]], dtype=F64)
RATE = torch.tensor(0.8, dtype=F64)


@each
def test_vmap_jvp_and_jacrev_by_parameters_and_starts_are_those_of_autograd(kind, name):
    def end(rate, y):
        problem = problem_of(kind, rate, wave=1.0)
        return joined(ss.solve(problem, start_of(kind, y), TS, dt=0.25, method=name).ys)[-1]

    wanted = torch.autograd.functional.jacobian(end, (RATE, Y))
    found = torch.func.jacrev(end, argnums=(0, 1))(RATE, Y)
    # what Newton's method leaves differs with its batch, in values alone
    close = {"rtol": 1e-9 if METHODS["ode", name].may_fail else 1e-12, "atol": 1e-12}
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **close)
    along = torch.tensor(0.7, dtype=F64), Y.flip(-1)
    value, slope = torch.func.jvp(end, (RATE, Y), along)
    torch.testing.assert_close(value, end(RATE, Y), **close)
    torch.testing.assert_close(slope, wanted[0] * along[0] + torch.tensordot(wanted[1], along[1], 2), **close)
    rates, starts = torch.stack([RATE, 2 * RATE]), torch.stack([Y, -Y])
    several = torch.func.vmap(end)(rates, starts)
    torch.testing.assert_close(several, torch.stack([end(*one) for one in zip(rates, starts, strict=True)]), **close)

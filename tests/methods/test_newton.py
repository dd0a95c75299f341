"""Newton's method for z = a + s f(t, z), a system for each trajectory."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods.jacobian import value_and_jacobian
from sdesolve.methods.newton import root
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.counted import Counted
from tests.methods.stochastic_problems import tensor

F64 = torch.float64
ONE = torch.tensor(1.0, dtype=F64)


def system_of(f, y, batched=True) -> System:
    return System(ss.ODE(f, batched=batched), state_spec(y, batched)[0])


def solved(f, a, s, guess=None, iterations=5, t=ONE, batched=True):
    s = torch.as_tensor(s, dtype=a.dtype) if not isinstance(s, torch.Tensor) else s
    return root(system_of(f, a, batched), t, a, s, a if guess is None else guess, iterations)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@settings(max_examples=25)
@given(n=st.integers(1, 5), batch=st.integers(1, 4), s=st.floats(0.0, 1e4), seed=st.integers(0, 1000))
def test_a_linear_system_is_solved_by_one_correction_and_known_to_be_by_the_second(n, batch, s, seed):
    # eigenvalues of J lie in the left half plane
    root_of = normal(seed, n, n)
    J, b, a = -root_of @ root_of.T + normal(seed + 1, n, n).triu(1) * 0.1, normal(seed + 2, n), normal(seed, batch, n)
    found = solved(lambda t, y: y @ J.T + t * b, a, s, iterations=2)
    exact = torch.linalg.solve(torch.eye(n, dtype=F64) - s * J, (a + s * b)[..., None])[..., 0]
    scale = 1 + exact.abs().max() + a.abs().max()
    condition = torch.linalg.cond(torch.eye(n, dtype=F64) - s * J)
    assert not found.failed.any()
    assert (found.z - exact).abs().max() <= 1e-14 * condition * scale
    assert (found.change - (found.z - a)).abs().max() <= 1e-14 * scale


@settings(max_examples=40)
@given(a=st.floats(-20, 20), s=st.floats(1e-3, 50.0))
def test_the_root_of_a_cubic_is_cardanos(a, s):
    found = solved(lambda t, y: -(y**3), tensor([a]), s, iterations=25)
    # z + s z^3 = a
    p, q = 1 / s, -a / s
    square = np.sqrt(q * q / 4 + p**3 / 27)
    u = np.cbrt(abs(q) / 2 + square)
    exact = -np.sign(q) * (u - p / (3 * u))
    assert not found.failed.item()
    # Cardano's own cancellation is of the size of u
    assert abs(found.z.item() - exact) <= 1e-13 * (1 + u)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), s=st.floats(0.01, 1.0))
def test_a_coupled_system_has_the_root_that_scipy_finds(seed, s):
    P, a = normal(seed, 3, 3), normal(seed + 1, 2, 3)
    f = lambda t, y: torch.tanh(y @ P.T) - y**3 * t
    found = solved(f, a, s, iterations=12)
    for i in range(2):
        residual = lambda z, i=i: z - a[i].numpy() - s * f(ONE, torch.as_tensor(z)[None])[0].numpy()
        # there may be several roots: SciPy begins where this one is
        exact = scipy.optimize.root(residual, found.z[i].numpy() + 1e-3, tol=1e-14).x
        assert not found.failed[i]
        assert np.abs(residual(found.z[i].numpy())).max() < 1e-13 * 10
        assert np.abs(exact - found.z[i].numpy()).max() < 1e-10


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (1, 1)], ids=str)
def test_a_state_of_any_shape_has_the_jacobian_of_its_elements(shape):
    y = normal(0, 4, *shape)
    weights = normal(1, *shape, *shape)
    dims = len(shape)

    def f(t, y):
        flat = torch.tensordot(torch.sin(y), weights, dims=(list(range(y.ndim - dims, y.ndim)), list(range(dims))))
        return t * flat + y * y

    value, jacobian = value_and_jacobian(system_of(f, y), ONE, y)
    n = y[0].numel()
    assert torch.equal(value, f(ONE, y)) and jacobian.shape == (4, n, n)
    for i in range(4):
        exact = torch.autograd.functional.jacobian(lambda x: f(ONE, x), y[i])
        assert torch.allclose(jacobian[i], exact.reshape(n, n), atol=1e-14)
        alone = value_and_jacobian(system_of(f, y[i], batched=False), ONE, y[i])
        assert torch.allclose(alone[1][0], jacobian[i], atol=1e-14)
        one = solved(f, y[i], 0.05, batched=False)
        assert torch.allclose(one.z, solved(f, y, 0.05).z[i], atol=1e-14) and one.failed.shape == (1,)


def test_functions_of_one_trajectory_and_pytrees_have_jacobians():
    y = {"x": normal(0, 3, 2), "v": normal(1, 3)}
    f = lambda t, y: {"x": -y["x"] * y["v"], "v": y["x"].sum() - y["v"]}
    problem = ss.ODE(f, vectorize=True)
    spec, flat = state_spec(y, True)
    jacobian = value_and_jacobian(System(problem, spec), ONE, flat)[1]
    x, v, zero = y["x"], y["v"], torch.zeros(3, dtype=F64)
    rows = [[-v, zero, -x[:, 0]], [zero, -v, -x[:, 1]], [*ONE.expand(2, 3), -ONE.expand(3)]]
    assert torch.allclose(jacobian, torch.stack([torch.stack(row, -1) for row in rows], 1))


def test_a_trajectory_has_the_root_that_it_has_alone():
    a = normal(0, 7, 3) * 3
    f = lambda t, y: torch.sin(y.flip(-1)) * t - y**3
    s = torch.linspace(0.01, 2.0, 7, dtype=F64)[:, None]
    t = torch.linspace(0.0, 1.0, 7, dtype=F64)[:, None]
    together = solved(f, a, s, t=t)
    assert together.failed.any() and not together.failed.all()
    for i in range(7):
        alone = solved(f, a[i : i + 1], s[i : i + 1], t=t[i : i + 1])
        assert torch.equal(alone.z[0], together.z[i]) and alone.failed[0] == together.failed[i]


def test_single_precision_converges_for_stiff_systems():
    J = torch.tensor([[-1e5, 1e5], [1.0, -3.0]])
    found = solved(lambda t, y: y @ J.T - y**3, torch.tensor([[1.0, 2.0], [-0.3, 0.1]]), 0.1)
    exact = solved(lambda t, y: y @ J.T.double() - y**3, tensor([1.0, 2.0], [-0.3, 0.1]), 0.1)
    assert not found.failed.any() and found.z.dtype == torch.float32
    assert (found.z - exact.z).abs().max() < 1e-5


def test_evaluations_are_the_iterations_and_two():
    for n, iterations in ((1, 1), (3, 4)):
        f = Counted(lambda t, y: -y)
        solved(f, normal(0, 2, n), 0.1, iterations=iterations)
        assert f.calls == iterations + 2


# ---- failures


def test_where_there_is_no_root_the_guess_stands_and_the_others_have_theirs():
    """z = a + exp(z) has a root for a <= -1 only."""
    a = tensor([-3.0], [5.0], [-2.0], [torch.nan])
    guess = tensor([-3.0], [0.25], [-2.0], [0.0])
    found = solved(lambda t, y: torch.exp(y), a, 1.0, guess)
    # a that is not finite is no failure of the iteration
    assert found.failed.tolist() == [False, True, False, False]
    assert found.z[1].item() == 0.25 and found.change[1].item() == 0 and found.z[3].isnan()
    for i in (0, 2):
        assert abs(found.z[i] - a[i] - found.z[i].exp()).item() < 1e-14


def test_one_correction_is_known_to_suffice_only_where_it_is_small():
    assert solved(lambda t, y: -y, tensor([1.0, 2.0]), 0.5, iterations=1).failed.all()
    assert not solved(lambda t, y: -y, tensor([1.0, 2.0]), 1e-9, iterations=1).failed.any()


@pytest.mark.parametrize("n", [1, 2])
def test_a_failed_trajectory_leaves_the_gradients_of_the_others(n):
    """The drift is NaN and its derivative infinite on the way; Jacobians are singular where it is 0."""
    a = tensor([0.5], [-1.0], [3.0]).expand(3, n).clone()
    guess = torch.ones_like(a)

    def gradients(rows):
        p = torch.tensor(0.7, dtype=F64, requires_grad=True)
        start = a[rows].clone().requires_grad_()
        found = solved(lambda t, y: -p * torch.sqrt(y), start, 1.0, guess[rows])
        return found.failed.tolist(), *torch.autograd.grad(found.z.square().sum() + found.change.sum(), (start, p))

    failed, by_a, by_p = gradients([0, 1, 2])
    assert failed == [False, True, False]
    _, by_a_good, by_p_good = gradients([0, 2])
    assert torch.equal(by_a[[0, 2]], by_a_good) and (by_a[1] == 0).all()
    assert torch.allclose(by_p, by_p_good) and by_p != 0


@pytest.mark.parametrize("n", [1, 2])
def test_a_singular_matrix_where_no_root_was_found_leaves_gradients_finite(n):
    """M = 1 - p exp(z) is 0 at the guess, p = 1 and z = 0."""
    a, guess = tensor([-3.0], [5.0]).expand(2, n).clone(), tensor([-3.0], [0.0]).expand(2, n).clone()
    p = torch.ones((), dtype=F64, requires_grad=True)
    found = solved(lambda t, y: p * torch.exp(y), a, 1.0, guess)
    by_p = torch.autograd.grad(found.z.sum(), p)[0]
    size = torch.exp(found.z[0, 0])
    assert found.failed.tolist() == [False, True]
    assert torch.allclose(by_p, n * size / (1 - size))


def test_a_complex_state_is_refused():
    with pytest.raises(ValueError, match=r"y0: got dtype torch.complex128.*components"):
        solved(lambda t, y: -y, torch.ones(2, 1, dtype=torch.complex128), torch.ones(()))


# ---- derivatives


def cubic(p):
    return lambda t, y: torch.tanh(y @ p.T) * t - y**3


def of_everything(a, p, s, t):
    found = solved(cubic(p), a, s, iterations=12, t=t)
    return found.z, found.change


ARGUMENTS = (normal(0, 2, 3), normal(1, 3, 3), torch.tensor(0.3, dtype=F64), torch.tensor(0.8, dtype=F64))


def test_first_derivatives_are_those_of_the_implicit_function():
    assert torch.autograd.gradcheck(of_everything, [x.clone().requires_grad_() for x in ARGUMENTS])


def test_derivatives_of_a_scalar_solution_in_closed_form():
    """z = a - s p z:  z = a / (1 + s p)."""
    a, p, s = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (2.0, 30.0, 0.4))
    z = solved(lambda t, y: -p * y, a.reshape(1, 1), s).z
    found = torch.autograd.grad(z.sum(), (a, p, s))
    exact = 1 / 13, -2 * 0.4 / 13**2, -2 * 30 / 13**2
    assert np.allclose([x.item() for x in found], exact, rtol=1e-13)


def test_transforms_of_torch_func_give_the_same_derivatives():
    direct = torch.autograd.functional.jacobian(lambda *x: of_everything(*x)[0].sum(), ARGUMENTS)
    pulled = torch.func.vjp(lambda *x: of_everything(*x)[0].sum(), *ARGUMENTS)[1](torch.ones((), dtype=F64))
    for mine, theirs in zip(pulled, direct, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    along = tuple(normal(k, *x.shape) for k, x in enumerate(ARGUMENTS))
    pushed = torch.func.jvp(lambda *x: of_everything(*x)[0].sum(), ARGUMENTS, along)[1]
    assert abs(pushed - sum((x * y).sum() for x, y in zip(direct, along, strict=True))) < 1e-12

"""check_problem finds every broken promise, says where, and refuses no problem that keeps its own."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.errors import CoupledTrajectoriesError, FunctionError, TrainingModeError
from sdesolve.testing import check_problem
from sdesolve.testing.moves import separating

F32, F64 = torch.float32, torch.float64
decay = lambda t, y: -y
seeds = st.integers(0, 10**6)
dtypes = st.sampled_from([F32, F64])
scales = st.sampled_from([1e-8, 1.0, 1e8])
d, BATCH = 3, 2


def fault(problem, y0, *args, kind=FunctionError, **options):
    """The text of what is found."""
    with pytest.raises(ValueError) as caught:
        check_problem(problem, y0, *args, **options)
    assert type(caught.value) is kind
    return str(caught.value)


def randn(seed, *shape, dtype=F64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def starts(dtype, scale=1.0, seed=0):
    """States of all kinds: anywhere, symmetric, zero."""
    shape = (BATCH, d)
    return {
        "random": scale * randn(seed, *shape, dtype=dtype),
        "equal": torch.full(shape, scale, dtype=dtype),
        "zero": torch.zeros(shape, dtype=dtype),
    }


START = st.sampled_from(["random", "equal", "zero"])


# --- noise="diagonal" -------------------------------------------------------------------------------------------------

ELEMENTWISE = {
    "zero": lambda t, y: torch.zeros_like(y),
    "number": lambda t, y: 0.3,
    "time": lambda t, y: (0.3 + t).expand(1) if t.ndim == 0 else 0.3 + t,
    "linear": lambda t, y: 0.4 * y,
    "offset": lambda t, y: 100 + 1e-3 * y,
    "sine": lambda t, y: torch.sin(3 * y + t),
    "square root": lambda t, y: y.abs().sqrt(),
    "domain": lambda t, y: y.sqrt(),
    "clamp": lambda t, y: y.clamp(0.0, 1.0),
    "step": lambda t, y: torch.where(y > 0.5, 2.0, 0.1).to(y.dtype),
    "round": lambda t, y: torch.round(4 * y) / 4,
    "vector": lambda t, y: y * torch.arange(1, d + 1, dtype=y.dtype),
    "detached": lambda t, y: y.detach().tanh(),
}


def network(seed, dtype):
    """The same network for every component."""
    a, b = randn(seed, 1, 8, dtype=dtype), randn(seed + 1, 8, 1, dtype=dtype)
    return lambda t, y: (torch.relu(y[..., None] @ a + t.reshape(-1, 1, 1) if t.ndim else y[..., None] @ a + t) @ b)[
        ..., 0
    ]


def networks(seed, dtype):
    """A network for each component, in one product of block-diagonal matrices."""
    a = torch.block_diag(*randn(seed, d, 1, 4, dtype=dtype))
    b = torch.block_diag(*randn(seed + 1, d, 4, 1, dtype=dtype))
    return lambda t, y: torch.tanh(y @ a) @ b


@pytest.mark.parametrize("g", ELEMENTWISE.values(), ids=ELEMENTWISE)
@settings(max_examples=8)
@given(dtype=dtypes, scale=scales, start=START, seed=seeds)
def test_elementwise_diffusions_are_diagonal(g, dtype, scale, start, seed):
    y0 = starts(dtype, scale, seed)[start].abs()
    check_problem(ss.SDE(decay, g), y0, seed=seed)


@settings(max_examples=8)
@given(dtype=dtypes, scale=scales, start=START, seed=seeds)
def test_networks_of_one_component_are_diagonal(dtype, scale, start, seed):
    for make in (network, networks):
        check_problem(ss.SDE(decay, make(seed, dtype)), starts(dtype, scale, seed)[start])


@settings(max_examples=8)
@given(dtype=dtypes, seed=seeds)
def test_rounding_that_other_components_leave_behind_is_no_dependence(dtype, seed):
    """Sums and differences of all components that cancel, and a rotation there and back."""
    rotation = torch.linalg.qr(randn(seed, d, d))[0].to(dtype)
    check_problem(
        ss.SDE(decay, lambda t, y: torch.diff(y.cumsum(-1), prepend=0 * y[..., :1])), randn(seed, 2, d, dtype=dtype)
    )
    check_problem(ss.SDE(decay, lambda t, y: y @ rotation @ rotation.T), randn(seed, 2, d, dtype=dtype))


#: what component i reads of component j
COUPLINGS = {
    "linear": lambda y, j: y[..., j],
    "square": lambda y, j: y[..., j] ** 2,
    "norm": lambda y, j: y.norm(dim=-1),
    "largest": lambda y, j: y.max(-1).values,
    "mean": lambda y, j: y.mean(-1),
    "ramp": lambda y, j: torch.relu(y[..., j]),
    "step": lambda y, j: torch.sign(y[..., j]),
    "rounded": lambda y, j: torch.round(4 * y[..., j]),
    "detached": lambda y, j: y[..., j].detach(),
}


@pytest.mark.parametrize("coupling", COUPLINGS)
@settings(max_examples=8)
@given(dtype=dtypes, start=START, seed=seeds, data=st.data())
def test_a_weak_coupling_hidden_in_one_component_is_found(coupling, dtype, start, seed, data):
    """1e-4 of the component in float32, 1e-9 in float64, where others are larger."""
    i, j = data.draw(st.permutations(range(d)))[:2]
    weak = 1e-4 if dtype is F32 else 1e-9
    sizes = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)

    def g(t, y):
        other = torch.zeros_like(y)
        other[..., i] = weak * COUPLINGS[coupling](y, j)
        return sizes * (1 + 0.1 * torch.sin(y) + other)

    text = fault(ss.SDE(decay, g), starts(dtype, 1.0, seed)[start], seed=seed)
    others = r"component \(\d,\)" if coupling in ("norm", "largest", "mean") else rf"component \({j},\)"
    assert re.match(
        rf"diffusion: component \({i},\) of trajectory \d changes with {others} of y \(from .* to .*\), at t =", text
    )
    assert "noise='general'" in text and "torch.diag_embed(g)" in text and "noise='scalar'" in text


@settings(max_examples=8)
@given(scale=scales, dtype=dtypes, seed=seeds)
def test_couplings_are_found_at_every_scale(scale, dtype, seed):
    y0 = scale * randn(seed, BATCH, d, dtype=dtype)
    text = fault(ss.SDE(decay, lambda t, y: (1 + 0.01 * torch.tanh(y.roll(1, -1) / scale)) * 1e-6), y0)
    assert "diffusion: component" in text


@settings(max_examples=8)
@given(dtype=dtypes, seed=seeds, i=st.integers(0, 2))
def test_a_coupling_of_a_component_that_others_exceed_by_far_is_found(dtype, seed, i):
    sizes = torch.full((d,), 1e6, dtype=dtype)
    sizes[i] = 1e-6

    def g(t, y):
        other = torch.zeros_like(y)
        other[..., i] = 0.01 * y[..., (i + 1) % d]
        return sizes * (1 + other)

    text = fault(ss.SDE(decay, g), randn(seed, BATCH, d, dtype=dtype))
    assert text.startswith(f"diffusion: component ({i},)") and f"with component ({(i + 1) % d},) of y" in text


def test_a_coupling_of_three_components_names_their_group():
    text = fault(
        ss.SDE(decay, lambda t, y: 1 + 0 * y + (y.abs().min(-1).values > 0.2)[:, None] * 0.1), torch.zeros(2, 3)
    )
    assert re.match(r"diffusion: component .* changes with (other components together|component \(\d,\)) of y", text)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_every_pair_is_separated_both_ways(count):
    masks = torch.stack(list(separating(count))) if count > 1 else torch.zeros(0, 1, dtype=torch.bool)
    apart = (masks[:, :, None] & ~masks[:, None, :]).any(0)
    assert (apart | torch.eye(count, dtype=torch.bool)).all()


# --- additive=True ----------------------------------------------------------------------------------------------------

OF_TIME = {
    "diagonal": lambda t, y: torch.cos(t) * torch.ones_like(y),
    "scalar": lambda t, y: 1 + t * t,
    "general": lambda t, y: (0.5 + t)[..., None] * torch.ones(*y.shape, 2, dtype=y.dtype),
}


@pytest.mark.parametrize("noise", OF_TIME)
@settings(max_examples=6)
@given(dtype=dtypes, scale=scales, start=START, seed=seeds)
def test_diffusions_of_time_are_additive(noise, dtype, scale, start, seed):
    y0 = starts(dtype, scale, seed)[start]
    check_problem(ss.SDE(decay, OF_TIME[noise], noise=noise, additive=True), y0)
    check_problem(ss.SDE(decay, lambda t, y: 0 * OF_TIME[noise](t, y), noise=noise, additive=True), y0)


@pytest.mark.parametrize("noise", OF_TIME)
@settings(max_examples=6)
@given(dtype=dtypes, start=START, seed=seeds, i=st.integers(0, d - 1), coupling=st.sampled_from(list(COUPLINGS)))
def test_a_weak_dependence_of_additive_noise_is_found(noise, dtype, start, seed, i, coupling):
    weak = 1e-4 if dtype is F32 else 1e-9

    def g(t, y):
        other = torch.zeros_like(y)
        other[..., i] = weak * COUPLINGS[coupling](y, (i + 1) % d)
        value = OF_TIME[noise](t, y)
        return value + torch.stack([0 * other, other], -1) if noise == "general" else value * (1 + other)

    text = fault(ss.SDE(decay, g, noise=noise, additive=True), starts(dtype, 1.0, seed)[start])
    column = ", column 1," if noise == "general" else ""
    assert text.startswith(f"diffusion: component ({i},) of trajectory ")
    assert re.search(rf"of trajectory \d{column} changes with y \(from .* to .*\), at t = ", text)
    assert "the SDE says additive=True" in text and "Drop additive=True" in text


def test_a_dependence_between_the_times_is_found():
    g = lambda t, y: 1 + torch.sin(torch.pi * t) ** 2 * y
    assert "at t = 0.382" in fault(ss.SDE(decay, g, additive=True), torch.ones(2, 2, dtype=F64))
    check_problem(ss.SDE(decay, g, additive=True), torch.ones(2, 2, dtype=F64), t=0.0)


# --- commutative=True -------------------------------------------------------------------------------------------------


def commuting(seed, m, size=d):
    """Polynomials of one random matrix."""
    a = randn(seed, size, size) / size**0.5
    return torch.stack([c[0] * torch.eye(size, dtype=F64) + c[1] * a + c[2] * a @ a for c in randn(seed + 1, m, 3)])


def turns(seed, m):
    """Multiplications with complex numbers."""
    return torch.stack([torch.stack([torch.stack([a, -b]), torch.stack([b, a])]) for a, b in randn(seed, m, 2)])


FORMS = {
    # x(y), and dy/dx at x: in the coordinates y, columns B_k x are y'(x) B_k x, and commute if those do
    "linear": (lambda y: y, lambda x: torch.ones_like(x)),
    "stretched": (torch.asinh, torch.cosh),
    "piecewise": (lambda y: torch.where(y > 0, y, y / 3), lambda x: torch.where(x > 0, 1.0, 3.0).to(x.dtype)),
}


def fields(matrices, form, dtype):
    """g (*y.shape, m) with columns y'(x) B_k x."""
    back, slope = FORMS[form]
    B = matrices.to(dtype)

    def g(t, y):
        x = back(y)
        return slope(x)[..., None] * torch.einsum("kij,...j->...ik", B, x)

    return g


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8)
@given(dtype=dtypes, scale=scales, start=START, seed=seeds, m=st.sampled_from([1, 2, 3, 10]))
def test_columns_that_commute_are_accepted(form, dtype, scale, start, seed, m):
    y0 = starts(dtype, scale if form == "linear" else min(scale, 1.0), seed)[start]
    check_problem(
        ss.SDE(decay, fields(commuting(seed, m), form, dtype), noise="general", commutative=True), y0, seed=seed
    )


@settings(max_examples=8)
@given(dtype=dtypes, scale=scales, seed=seeds)
def test_turns_commute(dtype, scale, seed):
    y0 = scale * randn(seed, 4, 2, dtype=dtype)
    check_problem(ss.SDE(decay, fields(turns(seed, 3), "linear", dtype), noise="general", commutative=True), y0)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8)
@given(dtype=dtypes, start=START, seed=seeds, m=st.sampled_from([2, 3, 10]), data=st.data())
def test_columns_that_do_not_commute_are_found(form, dtype, start, seed, m, data):
    """A small shear is added to one column; the columns named are a pair that does not commute."""
    B = commuting(seed, m)
    k = data.draw(st.integers(0, m - 1))
    B[k, 0, d - 1] += 1e-2 if dtype is F32 else 1e-6
    text = fault(
        ss.SDE(decay, fields(B, form, dtype), noise="general", commutative=True),
        starts(dtype, 1.0, seed)[start],
        seed=seed,
    )
    assert "do not commute" in text and "the SDE says commutative=True" in text and "Drop commutative=True" in text
    if m <= 8:
        i, j = map(int, re.search(r"columns (\d+) and (\d+) do not commute", text).groups())
        assert k in (i, j)
    else:
        assert "random combinations of the columns" in text


def test_the_commutator_of_two_shears_is_told():
    """B_0 y = (y_1, 0), B_1 y = (0, y_0): (dg_0/dy) g_1 - (dg_1/dy) g_0 = (y_0, -y_1)."""
    B = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
    y0 = torch.tensor([[3.0, 1.0]])
    text = fault(ss.SDE(decay, fields(B, "linear", F32), noise="general", commutative=True), y0, t=0.5)
    assert text.startswith(
        "diffusion: columns 0 and 1 do not commute: (dg_0/dy) g_1 - (dg_1/dy) g_0 is 3 in component (0,) of "
        "trajectory 0, at t = 0.5"
    )


class Doubled(torch.autograd.Function):
    """Without a forward mode."""

    @staticmethod
    def forward(ctx, y):
        return 2 * y

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


HIDDEN = {"no forward mode": Doubled.apply, "detached": lambda y: 2 * y.detach()}


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
@settings(max_examples=8)
@given(dtype=dtypes, form=st.sampled_from(list(FORMS)), seed=seeds, start=START)
def test_where_there_is_no_forward_mode_differences_tell(hide, dtype, form, seed, start):
    B, y0 = commuting(seed, 2), starts(dtype, 1.0, seed)[start]
    good = fields(B, form, dtype)
    check_problem(ss.SDE(decay, lambda t, y: good(t, hide(y)) / 2, noise="general", commutative=True), y0)
    B[0, 0, 2] += 0.5
    bad = fields(B, form, dtype)
    text = fault(ss.SDE(decay, lambda t, y: bad(t, hide(y)) / 2, noise="general", commutative=True), y0)
    assert "columns 0 and 1 do not commute" in text


# --- functions --------------------------------------------------------------------------------------------------------

KINDS = {
    "batch of one": (torch.ones(1, 2), {}, lambda y: y),
    "one trajectory": (torch.ones(4, 2), {"batched": False}, lambda y: y),
    "numbers": (torch.ones(3), {}, lambda y: y),
    "one number": (torch.ones(()), {"batched": False}, lambda y: y),
    "images": (torch.ones(2, 1, 4, 4), {}, lambda y: y),
    "vectorized": (torch.ones(3, 2), {"vectorize": True}, lambda y: y),
    "empty": (torch.ones(3, 0), {}, lambda y: y),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("additive", [False, True])
def test_every_kind_of_state_is_checked(kind, noise, additive):
    y0, options, _ = KINDS[kind]
    g = lambda t, y: 0.1 * torch.ones_like(y) if additive else 0.1 * torch.sin(y)
    general = lambda t, y: torch.stack([g(t, y), -g(t, y)], -1)
    facts = {"noise": noise, "additive": additive, "commutative": noise == "general", **options}
    check_problem(ss.SDE(decay, general if noise == "general" else g, **facts), y0)
    check_problem(ss.ODE(decay, **options), y0)


def test_the_leaves_of_trees_are_named():
    y0 = {"x": torch.ones(2, 3), "v": torch.ones(2, 1, 2)}
    f = lambda t, y: {"x": -y["x"], "v": -y["v"]}
    check_problem(ss.SDE(f, f), y0)
    g = lambda t, y: {"x": y["x"], "v": y["v"] + torch.nn.functional.pad(y["x"][:, None, 1:2], (1, 0))}
    assert "component (0, 1) of leaf ['v'] of trajectory" in (text := fault(ss.SDE(f, g), y0))
    assert "changes with component (1,) of leaf ['x'] of y" in text
    y0 = (torch.ones(2), torch.ones(2))
    text = fault(ss.SDE(lambda t, y: y, lambda t, y: (y[1], y[0]), batched=False), y0)
    assert re.match(
        r"diffusion: component \((0|1),\) of leaf \[0\] changes with component \(\1,\) of leaf \[1\] of y", text
    )


def test_a_zero_force_on_positions_is_accepted():
    """As in a Langevin equation: noise drives the velocity alone."""
    f = lambda t, y: (y[1], -y[0] - y[1])
    g = lambda t, y: (torch.zeros_like(y[0]), torch.ones_like(y[1]))
    check_problem(ss.SDE(f, g, additive=True), (torch.ones(3, 2), torch.zeros(3, 2)))


COUPLED = {
    "mean": lambda t, y: y.mean(0) - y,
    "neighbour": lambda t, y: y.roll(1, 0) - y,
    "weak": lambda t, y: y + 1e-9 * y.sum(0),
    "last two": lambda t, y: torch.cat([y[:-2], y[-2:-1], y[-1:] + 1e-6 * y[-2:-1]]),
}


@pytest.mark.parametrize("f", COUPLED.values(), ids=COUPLED)
@pytest.mark.parametrize("batch", [2, 5, 8])
def test_trajectories_that_read_each_other_are_found(f, batch):
    y0 = torch.ones(batch, 2, dtype=F64)
    text = fault(ss.ODE(f), y0, kind=CoupledTrajectoriesError)
    assert text.startswith("f: the value for one trajectory changes with another's state: that for trajectory")
    assert "batched=False" in text and "shared_steps=True" in text
    if f is COUPLED["last two"]:
        assert f"for trajectory {batch - 1} with that of trajectory {batch - 2}, at t = 0" in text
    check_problem(ss.ODE(f, batched=False), y0)
    text = fault(ss.SDE(decay, f, noise="scalar"), y0, kind=CoupledTrajectoriesError)
    assert text.startswith("diffusion: the value for one trajectory changes")


@pytest.mark.parametrize("t", ["mean", "first"])
def test_trajectories_that_read_each_others_times_are_found(t):
    read = {"mean": lambda t: t.mean(), "first": lambda t: t.reshape(-1)[0]}[t]
    text = fault(ss.ODE(lambda t, y: -y * read(t)), torch.ones(3, 2), kind=CoupledTrajectoriesError)
    assert text.startswith("f: the value for one trajectory changes with another's time")
    assert "ss.batch_time(t, y)" in text


TIMES = {
    "0-d or own": lambda t, y: y * torch.cos(t),
    "own only": lambda t, y: y * t[:, :1],
    "0-d only": lambda t, y: y * float(t),
    "batch": lambda t, y: y * ss.batch_time(t, y)[:, None],
    "network": lambda t, y: y * torch.cat([y, ss.batch_time(t, y)[:, None]], -1).sum(-1, keepdim=True),
}


@pytest.mark.parametrize("f", TIMES.values(), ids=TIMES)
def test_functions_of_either_form_of_time_are_checked(f):
    check_problem(ss.ODE(f), torch.ones(3, 2))
    assert "component" in fault(ss.SDE(decay, lambda t, y: f(t, y) * y.flip(-1)), torch.ones(3, 2))


class Counter(torch.nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.calls, self.steps = 0, steps

    def forward(self, t, y):
        self.calls += 1
        return -y * (1 + self.calls // self.steps)


def test_values_that_do_not_repeat_are_found():
    words = r"f: two evaluations at the same t and y differ, at t = 0; .* For noise write an SDE\."
    for f in (lambda t, y: y * torch.rand(()), Counter(1), Counter(7)):
        assert re.match(words, fault(ss.ODE(f), torch.ones(1, 2)))
    text = fault(ss.SDE(decay, lambda t, y: y + torch.randn_like(y)), torch.ones(3, 2))
    assert text.startswith("diffusion: two evaluations at the same t and y differ") and "SDE." not in text


def overwrite(t, y):
    y.data.mul_(2)
    return -y


WRITES = {
    "in place": (lambda t, y: y.mul_(2), "state"),
    "behind autograd": (overwrite, "state"),
    "time": (lambda t, y: t.add_(1) * y, "time"),
}


@pytest.mark.parametrize("name", WRITES)
def test_functions_that_write_into_their_arguments_are_found(name):
    f, what = WRITES[name]
    y0 = torch.ones(3, 2)
    assert f"f: wrote into the {what} it was given" in fault(ss.ODE(f), y0)
    assert f"diffusion: wrote into the {what} it was given" in fault(ss.SDE(decay, f), y0)
    assert torch.equal(y0, torch.ones(3, 2))


def test_numbers_that_are_not_finite_are_found_at_y0_alone():
    y0 = torch.tensor([[1.0, 4.0], [0.0, 1.0]])
    text = fault(ss.ODE(lambda t, y: 1 / y), y0)
    assert (
        text
        == "f: returned NaN or infinity at y0 in component (0,) of trajectory 1, at t = 0; accepted: finite numbers."
    )
    check_problem(ss.SDE(lambda t, y: -torch.log(y + 1e-3), lambda t, y: y.sqrt()), y0)

    def positive(t, y):
        if (y < 0).any():
            raise ArithmeticError("negative")
        return y.sqrt()

    check_problem(ss.SDE(decay, positive), y0)
    assert "component" in fault(ss.SDE(decay, lambda t, y: positive(t, y).flip(-1)), y0)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (ss.ODE(lambda t, y: y[:, :1]), "f: returned shape (3, 1) for y of shape (3, 2)"),
        (ss.ODE(lambda t, y: y.double()), "f: returned dtype torch.float64 for a state of dtype torch.float32"),
        (ss.SDE(decay, lambda t, y: y.sum()[None].expand(3)), "diffusion: returned shape (3,) for y of shape (3, 2)"),
        (ss.SDE(decay, lambda t, y: torch.tensor(1.0), noise="general"), "diffusion: returned shape ()"),
        (ss.SDE(lambda t, y: 1.0, decay), "drift: returned float; accepted is a torch tensor"),
    ],
)
def test_shapes_and_dtypes_are_those_of_the_state(problem, words):
    assert words in fault(problem, torch.ones(3, 2))


def test_errors_of_the_functions_themselves_come_through():
    with pytest.raises(ZeroDivisionError):
        check_problem(ss.ODE(lambda t, y: y * (1 / 0)), torch.ones(2, 2))


def test_all_faults_are_told_together():
    text = fault(ss.SDE(lambda t, y: y.mean(0) - y, lambda t, y: y.flip(0) + y, additive=True), torch.ones(2, 2))
    assert text.startswith("problem: 3 faults.\n- drift: the value for one trajectory")
    assert "\n- diffusion: the value for one trajectory" in text and "additive=True" in text
    assert text.count("\n") == 3


class Method(ss.SDE):
    def drift(self, t, y):
        return -y

    def diffusion(self, t, y):
        return y.flip(-1)


def test_subclasses_are_checked():
    assert "component (0,)" in fault(Method(), torch.ones(1, 2))
    check_problem(Method(noise="scalar"), torch.ones(1, 2))


def test_complex_states_of_odes_are_checked():
    y0 = torch.ones(3, 2, dtype=torch.complex128)
    check_problem(ss.ODE(lambda t, y: 1j * y), y0)
    assert "another's state" in fault(ss.ODE(lambda t, y: y.mean(0) - y), y0, kind=CoupledTrajectoriesError)
    with pytest.raises(TypeError, match="a real dtype"):
        check_problem(ss.SDE(decay, decay), y0)


def test_modules_in_training_mode_are_refused_in_the_words_of_solve():
    dropout = torch.nn.Dropout(0.5)
    y0, ts = torch.ones(4, 2), torch.tensor([0.0, 1.0])
    f = lambda t, y: dropout(y)
    text = fault(ss.ODE(f), y0, kind=TrainingModeError)
    with pytest.raises(TrainingModeError) as caught:
        ss.solve(ss.ODE(f), y0, ts)
    assert text == str(caught.value)
    state = torch.get_rng_state()
    check_problem(ss.ODE(f, allow_training=True), y0)
    assert torch.equal(state, torch.get_rng_state())
    dropout.eval()
    check_problem(ss.ODE(f), y0)


def test_the_same_seed_finds_the_same():
    problem = ss.SDE(decay, lambda t, y: y + 0.1 * y.norm(dim=-1, keepdim=True))
    y0 = randn(0, 3, 4)
    assert fault(problem, y0, seed=3) == fault(problem, y0, seed=3) != fault(problem, y0, seed=4)


def test_what_is_below_the_tolerance_is_accepted():
    problem = ss.SDE(decay, lambda t, y: 1 + 1e-6 * y.flip(-1))
    assert "component" in fault(problem, torch.ones(2, 2, dtype=F64))
    check_problem(problem, torch.ones(2, 2, dtype=F64), tolerance=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"problem": decay},
            TypeError,
            "problem: got function; accepted is an sdesolve.ODE, SDE, SplitODE, Semilinear, Langevin or Hamiltonian",
        ),
        ({"y0": [1.0]}, TypeError, "y0: got"),
        ({"y0": torch.tensor([[float("nan")]])}, ValueError, "y0: got NaN or infinity; accepted is finite numbers"),
        ({"t": "now"}, TypeError, "t: got 'now'; accepted is a finite time, or a sequence of them"),
        ({"t": ()}, ValueError, "t: got ()"),
        ({"t": float("inf")}, ValueError, "t: got inf"),
        ({"tolerance": 0.0}, ValueError, "tolerance: got 0.0; accepted is None, or a number between 0 and 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, error, words):
    with pytest.raises(error) as caught:
        check_problem(**{"problem": ss.ODE(decay), "y0": torch.ones(1, 1), **arguments})
    assert words in str(caught.value)


@pytest.mark.parametrize("t", [0.5, 1, (0.0, 2.0), [0.0], torch.tensor([0.0, 1.0]), torch.tensor(0.5)])
def test_times_may_be_a_number_a_sequence_or_a_tensor(t):
    check_problem(ss.ODE(decay), torch.ones(2, 2), t)


def test_a_rate_that_is_not_finite_is_named_instead_of_the_function():
    y0 = torch.ones(2, 1)
    for f in (None, lambda t, y: y):
        with pytest.raises(ss.errors.FunctionError, match=r"^A: returned NaN or infinity"):
            check_problem(ss.Semilinear(lambda t: 1 / t, f), y0)
    with pytest.raises(ss.errors.FunctionError, match=r"^f: returned NaN or infinity"):
        check_problem(ss.Semilinear(lambda t: -t, lambda t, y: y / t), y0)


def cubic_jacobian(t, y):
    """Of (y_0 y_1, t y_1^3)."""
    rows = [torch.stack([y[:, 1], y[:, 0]], 1), torch.stack([0 * y[:, 0], 3 * t.reshape(-1) * y[:, 1] ** 2], 1)]
    return torch.stack(rows, 1)


def cubic(t, y):
    return torch.stack([y[:, 0] * y[:, 1], t.reshape(-1) * y[:, 1] ** 3], 1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_is_accepted_as_jacobian(dtype, scale):
    y0 = scale * torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=dtype)
    check_problem(ss.ODE(cubic, jacobian=cubic_jacobian), y0)
    linear = lambda t, y: torch.stack([y[0] - y[1], 3 * y[1]])
    check_problem(ss.ODE(linear, batched=False, jacobian=lambda t, y: A), A[0])


def test_rounding_of_f_and_its_bends_are_no_fault_of_a_jacobian():
    y0 = torch.tensor([[1.0, 1e-4]])
    large = ss.ODE(lambda t, y: 1e4 + 0.01 * y, jacobian=lambda t, y: 0.01 * torch.eye(2)[None])
    bent = lambda t, y: torch.stack([y[:, 0], torch.sin(1e4 * y[:, 1])], 1)
    check_problem(large, y0)
    slope = lambda t, y: torch.diag_embed(torch.stack([0 * y[:, 0] + 1, 1e4 * torch.cos(1e4 * y[:, 1])], 1))
    check_problem(ss.ODE(bent, jacobian=slope), y0)


A = torch.tensor([[1.0, -1.0], [0.0, 3.0]])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(
    "wrong",
    [lambda j: -j, lambda j: j.mT, lambda j: 1.1 * j, lambda j: 0 * j, lambda j: j + torch.nan],
    ids=["sign", "transposed", "factor", "zero", "nan"],
)
def test_what_is_not_the_derivative_is_found(wrong, scale):
    y0 = scale * torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
    ode = ss.ODE(cubic, jacobian=lambda t, y: wrong(cubic_jacobian(t, y)))
    assert re.match(r"jacobian: entry \(\d, \d\) of trajectory \d is .* central differences of f give", fault(ode, y0))


def test_a_jacobian_of_the_wrong_shape_is_found():
    assert "jacobian: returned shape (2, 2)" in fault(ss.ODE(cubic, jacobian=lambda t, y: A), torch.ones(3, 2))


def test_the_parts_of_a_split_problem_are_checked_by_themselves():
    y0, coupled = torch.tensor([[1.0], [2.0]]), lambda t, y: y.flip(0)
    wrong = fault(ss.SplitODE(lambda t, y: -y, coupled), y0, kind=CoupledTrajectoriesError)
    assert wrong.startswith("nonstiff: the value for one trajectory changes with another's state")
    both = fault(ss.SplitODE(coupled, coupled), y0)
    assert "2 faults" in both and "- stiff:" in both and "- nonstiff:" in both
    check_problem(ss.SplitODE(lambda t, y: -y, lambda t, y: t * y), torch.ones(2, 1))

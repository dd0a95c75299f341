"""A request that makes no sense is refused before anything is computed, in words that say what to write instead."""

import numpy as np
import pytest
import torch

import sdesolve as ss

Y = torch.ones(3, 2)
TS = torch.tensor([0.0, 0.5, 1.0])
NAN, INF = float("nan"), float("inf")


def never(t, y):
    raise AssertionError("a wrong request has to be refused before the function is called")


ODE = ss.ODE(never)
SDE = ss.SDE(never, never)
STRATONOVICH = ss.SDE(never, never, calculus="stratonovich")
#: has noise of y's own shape, known without a call
DECAY = ss.SDE(lambda t, y: -y, lambda t, y: 0.3 * torch.ones_like(y))


def path(shape=(3, 2), cell=0.1, **options):
    return ss.BrownianPath(0, shape, cell=cell, **options)


def refused(kind, call, *fragments):
    """The call raises ``kind``, and its text has each of the fragments."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    for fragment in fragments:
        assert fragment in text, f"{fragment!r} is not in {text!r}"


def cases(**named):
    return pytest.mark.parametrize("case", named.values(), ids=named.keys())


@cases(
    list_of_numbers=([1.0, 2.0], TypeError, "y0: got 1.0, a float", "a torch tensor", "torch.as_tensor"),
    number=(1.0, TypeError, "y0: got 1.0", "a torch tensor"),
    nothing=(None, TypeError, "y0: got NoneType", "a torch tensor"),
    numpy=(np.ones((3, 2)), TypeError, "y0: got ndarray", "torch.as_tensor"),
    integers=(torch.ones(3, 2, dtype=torch.int64), TypeError, "y0: got dtype torch.int64", "float32", "y0.to("),
    half=(Y.half(), TypeError, "y0: got dtype torch.float16", "float32", "y0.to("),
    bfloat=(Y.bfloat16(), TypeError, "y0: got dtype torch.bfloat16", "float64"),
    empty_batch=(Y[:0], ValueError, "y0: got shape (0, 2)", "at least one trajectory"),
    no_dimension=(torch.tensor(1.0), ValueError, "y0: got shape ()", "y0[None]", "batched=False"),
    empty_tree=({}, TypeError, "y0: got {}", "pytree of tensors"),
    tree_of_dtypes=(
        {"a": Y, "b": Y.double()},
        TypeError,
        "torch.float32 on cpu, torch.float64 on cpu",
        "leaves of one dtype",
    ),
    tree_of_batches=({"a": Y, "b": torch.ones(4)}, ValueError, "(3, 2), (4,)", "share dimension 0", "batched=False"),
    tree_with_number=({"a": Y, "b": torch.tensor(1.0)}, ValueError, "(3, 2), ()", "share dimension 0"),
)
def test_a_wrong_start_state_is_refused(case):
    y0, kind, *fragments = case
    refused(kind, lambda: ss.solve(ODE, y0, TS), *fragments)


def test_a_complex_state_of_an_sde_is_refused():
    refused(TypeError, lambda: ss.solve(SDE, Y.to(torch.complex64), TS, dt=0.1), "y0", "complex64", "a real dtype")


@cases(
    not_monotone=(torch.tensor([0.0, 1.0, 0.5]), ValueError, "ts: got [0.0, 1.0, 0.5]", "strictly increasing"),
    repeated=(torch.tensor([0.0, 0.0, 1.0]), ValueError, "ts: got [0.0, 0.0, 1.0]", "strictly increasing"),
    one=(torch.tensor([0.0]), ValueError, "ts: got shape (1,)", "T >= 2"),
    none_at_all=(torch.tensor([]), ValueError, "ts: got shape (0,)", "T >= 2"),
    number=(1.0, ValueError, "ts: got shape ()", "(T,) or (batch, T)"),
    cube=(torch.zeros(2, 2, 2), ValueError, "ts: got shape (2, 2, 2)", "(T,) or (batch, T)"),
    nan=(torch.tensor([0.0, NAN]), ValueError, "nan", "finite times"),
    infinite=(torch.tensor([0.0, INF]), ValueError, "inf", "finite times"),
    complex=(torch.tensor([0, 1j]), ValueError, "torch.complex64", "real times"),
    booleans=(torch.tensor([False, True]), ValueError, "torch.bool", "real times"),
    text=("0, 1", TypeError, "ts: got str", "a tensor (T,)"),
    wrong_batch=(torch.tensor([[0.0, 1.0]] * 2), ValueError, "(2, 2) for y0 with a batch of 3", "(T,) or (3, T)"),
    transposed=(torch.arange(4.0)[:, None].expand(4, 3), ValueError, "(4, 3)", "(3, T)", "pass ts.T"),
    both_ways=(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), ValueError, "in each trajectory alike"),
)
def test_wrong_output_times_are_refused(case):
    ts, kind, *fragments = case
    refused(kind, lambda: ss.solve(ODE, Y, ts), *fragments)


def test_times_of_each_trajectory_need_a_batch():
    one = ss.ODE(never, batched=False)
    refused(ValueError, lambda: ss.solve(one, Y, torch.tensor([[0.0, 1.0]] * 3)), "ts", "batched=False", "(T,)")


def test_many_times_are_shown_shortened():
    ts = torch.arange(1000.0).flip(0)
    ts[500] = 0.0
    with pytest.raises(ValueError, match=r"'\.\.\.'") as caught:
        ss.solve(ODE, Y, ts)
    assert len(str(caught.value)) < 300


@cases(
    sde=(SDE, {}, "dt: got neither dt nor tolerances", "'sosri'", "dt=0.01", "rtol=1e-2"),
    euler=(SDE, {"method": "euler_maruyama"}, "neither dt nor tolerances", "'euler_maruyama'", "dt=0.01"),
    rk4=(ODE, {"method": "rk4"}, "neither dt nor tolerances", "'rk4'", "dt=0.01"),
    euler_with_tolerance=(
        SDE,
        {"rtol": 1e-3, "method": "euler_maruyama"},
        "'euler_maruyama', which has no error estimate",
        "Adaptive are: milstein, ",
        "dt=",
    ),
    euler_by_default=(ss.SDE(never, never, noise="general"), {"atol": 1e-3}, "'euler_maruyama', which has no", "dt="),
    euler_with_controller=(
        STRATONOVICH.to_calculus("ito"),
        {"method": "euler_maruyama", "controller": ss.PID()},
        "'euler_maruyama', which has no error estimate",
        "dt=",
    ),
    rk4_with_tolerance=(ODE, {"method": "rk4", "atol": 1e-3}, "'rk4', which has no error estimate", "tsit5", "dt="),
    rk4_with_controller=(ODE, {"method": "rk4", "controller": ss.PID()}, "no error estimate", "dopri5", "dt="),
)
def test_steps_that_nothing_says_how_to_choose_are_refused(case):
    problem, options, *fragments = case
    refused(ValueError, lambda: ss.solve(problem, Y, TS, **options), *fragments)


NOISES = {
    "milstein": SDE,
    "sriw1": SDE,
    "sosri": ss.SDE(never, never, noise="scalar"),
    "heun": STRATONOVICH,
    "sra1": ss.SDE(never, never, additive=True),
    "sosra": ss.SDE(never, never, noise="general", additive=True),
}


@pytest.mark.parametrize("method", NOISES)
def test_a_method_that_could_adapt_is_not_left_to_guess_how_accurate_an_sde_should_be(method):
    solve = lambda **options: ss.solve(NOISES[method], Y, TS, method=method, **options)
    wanted = "dt: got neither dt nor tolerances", repr(method), "dt=, the length of a step, or rtol= and atol="
    refused(ValueError, solve, *wanted)
    refused(ValueError, lambda: solve(shared_steps=True, max_steps=10), *wanted)
    for options in ({"dt": 0.1}, {"rtol": 0.1}, {"atol": 0.1}, {"controller": ss.PID()}):
        with pytest.raises(AssertionError, match="before the function is called"):
            solve(**options)


def test_both_remedies_for_steps_that_nothing_says_how_to_choose_work():
    for options in ({"dt": 0.01}, {"rtol": 1e-2, "atol": 1e-3}):
        assert ss.solve(DECAY, Y, TS, seed=0, **options).success.all()


@cases(
    negative=(-0.1, ValueError, "dt: got -0.1", "positive", "decreasing ts"),
    zero=(0, ValueError, "dt: got 0.0", "positive"),
    nan=(NAN, ValueError, "dt: got nan", "positive finite"),
    infinite=(INF, ValueError, "dt: got inf", "positive finite"),
    text=("0.1", TypeError, "dt: got '0.1', a str", "a positive number"),
    boolean=(True, TypeError, "dt: got True, a bool", "a positive number"),
    list=([0.1], TypeError, "dt: got [0.1], a list", "a positive number"),
    several=(torch.tensor([0.1, 0.2]), TypeError, "dt: got a tensor of shape (2,)", "a positive number"),
    too_small=(1e-12, ValueError, "dt: got 1e-12", "1e+12 steps"),
    denormal=(1e-310, ValueError, "dt: got 1e-310", "steps"),
)
def test_a_wrong_step_is_refused(case):
    dt, kind, *fragments = case
    refused(kind, lambda: ss.solve(ODE, Y, TS, dt=dt, max_steps=10**15), *fragments)


@cases(
    text=({"rtol": "small"}, TypeError, "rtol: got 'small', a str", "a number >= 0"),
    boolean=({"atol": True}, TypeError, "atol: got True, a bool", "a number >= 0"),
    negative=({"rtol": -1.0}, ValueError, "rtol: got -1.0", ">= 0"),
    nan=({"atol": NAN}, ValueError, "atol: got nan", ">= 0"),
    nothing_left=({"rtol": 0.0, "atol": 0.0}, ValueError, "rtol, atol: got 0 and 0", "at least one positive"),
    shape=({"rtol": torch.full((7,), 1e-3)}, ValueError, "rtol: got shape (7,)", "broadcasts to (3, 2)"),
    beside_controller=({"rtol": 1e-3, "controller": ss.PID()}, ValueError, "controller=", "PID(rtol, atol)"),
    controller_text=({"controller": "pid"}, TypeError, "controller: got str", "ss.PID(...)"),
    controller_class=({"controller": ss.PID}, TypeError, "controller: got type", "ss.PID(...)"),
)
def test_wrong_tolerances_are_refused(case):
    options, kind, *fragments = case
    refused(kind, lambda: ss.solve(ODE, Y, TS, **options), *fragments)


@cases(
    rtol=({"rtol": "a"}, TypeError, "rtol: got 'a'"),
    dt_min=({"dt_min": -1}, ValueError, "dt_min: got -1", "a positive number"),
    dt_max=({"dt_max": "a"}, ValueError, "dt_max: got 'a'", "a positive number"),
    crossed=({"dt_min": 1.0, "dt_max": 0.1}, ValueError, "dt_min: got 1.0, above dt_max = 0.1"),
    one_jump=({"jumps": 0.5}, ValueError, "jumps: got 0.5", "[0.5] for a single one"),
    text_jump=({"jumps": ["a"]}, ValueError, "jumps: got ['a']", "finite times"),
    nan_jump=({"jumps": [NAN]}, ValueError, "jumps: got [nan]", "finite times"),
    safety=({"safety": 1.5}, ValueError, "safety: got 1.5", "between 0 and 1"),
    factor_min=({"factor_min": 2.0}, ValueError, "factor_min: got 2.0", "between 0 and 1"),
    factor_max=({"factor_max": 0.5}, ValueError, "factor_max: got 0.5", "above 1"),
    gains=({"p": 0, "i": 0, "d": 0}, ValueError, "p, i, d: got 0, 0, 0", "positive sum"),
    gain=({"p": "a"}, ValueError, "p: got 'a'", "a number"),
)
def test_a_wrong_controller_is_refused_when_it_is_made(case):
    options, kind, *fragments = case
    refused(kind, lambda: ss.PID(**options), *fragments)


def test_jumps_with_times_of_each_trajectory_are_refused():
    own = torch.tensor([[0.0, 1.0]] * 3)
    refused(ValueError, lambda: ss.solve(ODE, Y, own, controller=ss.PID(jumps=[0.5])), "jumps", "(T,) output times")
    refused(ValueError, lambda: ss.solve(ODE, Y, own, shared_steps=True), "shared_steps: got True", "(T,) times")


@cases(
    unknown=(ODE, "rk45", ValueError, "method: got 'rk45'", "euler, midpoint, heun, ralston, rk4, bosh3, tsit5"),
    of_scipy=(ODE, "RK45", ValueError, "In place of 'RK45' take 'dopri5'."),
    of_scipy_stiff=(ODE, "LSODA", ValueError, "In place of 'LSODA' take 'auto'."),
    of_torchdiffeq=(ODE, "dopri8", ValueError, "In place of 'dopri8' take 'dop853'."),
    capitals=(ODE, "DOP853", ValueError, "Did you mean 'dop853'?"),
    misspelt=(SDE, "euler_maryuama", ValueError, "Did you mean 'euler_maruyama'?"),
    unknown_sde=(SDE, "euler", ValueError, "method: got 'euler'", ": euler_maruyama, ", "'euler' is for ODEs"),
    ode_for_sde=(SDE, "tsit5", ValueError, ": euler_maruyama, ", "'tsit5' is for ODEs"),
    sde_for_ode=(ODE, "euler_maruyama", ValueError, "tsit5", "'euler_maruyama' is for SDEs"),
    object_for_ode=(ODE, ss.methods.METHODS["sde", "heun"], ValueError, "'heun', a method for SDEs", "one for an ODE"),
    object_for_sde=(SDE, ss.methods.METHODS["ode", "rk4"], ValueError, "'rk4', a method for ODEs", "one for an SDE"),
    number=(ODE, 5, TypeError, "method: got int", "a name (euler,", "method object"),
    type=(ODE, ss.methods.RungeKutta, TypeError, "method: got the class RungeKutta", "Write RungeKutta(...)"),
    ito_heun=(
        SDE,
        "heun",
        ValueError,
        "'heun' for an SDE with calculus='ito'",
        "calculus='stratonovich'",
        "method='sosri'",
        "sde.to_calculus('stratonovich')",
        "additive=True",
    ),
    stratonovich_euler=(
        STRATONOVICH,
        "euler_maruyama",
        ValueError,
        "calculus='stratonovich'",
        "method='slow_rk'",
        "sde.to_calculus('ito')",
    ),
)
def test_a_method_that_cannot_treat_the_problem_is_refused(case):
    problem, method, kind, *fragments = case
    refused(kind, lambda: ss.solve(problem, Y, TS, dt=0.1, method=method), *fragments)


class DiagonalOnly(ss.methods.Method):
    """Claims to solve diagonal noise alone."""

    name, problem, order = "diagonal_only", "sde", 0.5
    calculus, noise = ("ito",), ("diagonal",)
    drift_evaluations = diffusion_evaluations = 1


def test_a_method_that_cannot_treat_the_noise_is_refused():
    general = ss.SDE(never, never, noise="general")
    refused(
        ValueError,
        lambda: ss.solve(general, Y, TS, dt=0.1, method=DiagonalOnly()),
        "'diagonal_only' for noise='general'",
        "noise 'diagonal'",
        "For 'general' noise there are: euler_maruyama, ",
    )


def test_the_remedies_for_a_wrong_calculus_work():
    y = torch.ones(2, 1)
    for sde in (DECAY.to_calculus("stratonovich"), ss.SDE(DECAY.drift, DECAY.diffusion, additive=True)):
        assert ss.solve(sde, y, TS, dt=0.1, method="heun", seed=0).success.all()


def test_a_backward_ito_sde_is_refused_and_its_three_remedies_work():
    refused(
        ValueError,
        lambda: ss.solve(SDE, Y, TS.flip(0), dt=0.1),
        "ts: got decreasing times for an Ito SDE",
        "additive=True",
        "to_calculus('stratonovich')",
        "ss.time_reversed(sde)",
    )
    additive = ss.SDE(DECAY.drift, DECAY.diffusion, additive=True)
    for sde, ts in ((additive, TS.flip(0)), (DECAY.to_calculus("stratonovich"), TS.flip(0))):
        assert ss.solve(sde, Y, ts, dt=0.1, seed=0).success.all()
    assert ss.solve(ss.time_reversed(DECAY), Y, -TS.flip(0), dt=0.1, seed=0).success.all()


@cases(
    noise=(lambda: ss.SDE(never, never, noise="matrix"), ValueError, "noise: got 'matrix'", "'general'"),
    noise_list=(lambda: ss.SDE(never, never, noise=["general"]), ValueError, "noise: got ['general']", "'general'"),
    calculus=(lambda: ss.SDE(never, never, calculus="Ito"), ValueError, "calculus: got 'Ito'", "'ito'"),
    to_calculus=(lambda: SDE.to_calculus("Ito"), ValueError, "calculus: got 'Ito'", "'stratonovich'"),
    no_f=(ss.ODE, TypeError, "f: got nothing", "f(self, t, y)", "subclass of ODE"),
    no_drift=(ss.SDE, TypeError, "drift: got nothing", "drift(self, t, y)"),
    no_diffusion=(lambda: ss.SDE(never), TypeError, "diffusion: got nothing", "diffusion(self, t, y)"),
    f_number=(lambda: ss.ODE(3), TypeError, "f: got int", "a function (t, y) -> tensor"),
    diffusion_number=(lambda: ss.SDE(never, 0.3), TypeError, "diffusion: got float", "a function (t, y)"),
    diffusion_tensor=(lambda: ss.SDE(never, Y), TypeError, "diffusion: got Tensor", "a function (t, y)"),
    vectorize=(lambda: ss.ODE(never, vectorize=True, batched=False), ValueError, "vectorize", "batched=True"),
    reversed_ode=(lambda: ss.time_reversed(ODE), TypeError, "sde: got ODE", "sdesolve.SDE"),
)
def test_a_wrong_problem_is_refused_when_it_is_made(case):
    call, kind, *fragments = case
    refused(kind, call, *fragments)


@pytest.mark.parametrize("problem", [never, (never, never), ss.ODE, None], ids=["function", "tuple", "class", "None"])
def test_a_function_that_is_not_wrapped_is_refused(problem):
    refused(TypeError, lambda: ss.solve(problem, Y, TS), "problem: got", "ss.ODE(f)", "ss.SDE(drift, diffusion)")


@cases(
    adjoint=(
        ODE,
        {"adjoint": "adjoint"},
        "adjoint: got 'adjoint'",
        "'direct', 'checkpoint', 'backsolve', 'reversible'",
    ),
    adjoint_list=(
        ODE,
        {"adjoint": ["direct"]},
        "adjoint: got ['direct']",
        "'direct', 'checkpoint', 'backsolve', 'reversible'",
    ),
    backsolve_sde=(SDE, {"dt": 0.1, "adjoint": ss.Backsolve(rtol=1e-3)}, "ss.Backsolve(rtol=0.001)", "without it"),
    backsolve_fixed=(ODE, {"dt": 0.1, "adjoint": ss.Backsolve(atol=1e-3)}, "ss.Backsolve(atol=0.001)", "without it"),
    reversible_sosri=(
        SDE,
        {"dt": 0.1, "adjoint": "reversible", "method": "sosri"},
        "adjoint: got 'reversible' for an Ito SDE",
        "to_calculus('stratonovich')",
    ),
    on_failure=(ODE, {"on_failure": "ignore"}, "on_failure: got 'ignore'", "'raise', 'return'"),
    compile_mode=(ODE, {"compile": "max-autotune"}, "compile: got 'max-autotune'", "accepted is True, False"),
    dense_times=(ODE, {"dense": "no"}, "dense: got 'no'", "accepted is True, False"),
    shared_word=(ODE, {"shared_steps": "all"}, "shared_steps: got 'all'", "accepted is True, False"),
    max_steps_zero=(ODE, {"max_steps": 0}, "max_steps: got 0", "a positive int"),
    max_steps_float=(ODE, {"max_steps": 1e3}, "max_steps: got 1000.0", "a positive int"),
    max_steps_few=(ODE, {"dt": 0.01, "max_steps": 10}, "max_steps: got 10", "dt = 0.01 needs 100 steps"),
    dense_sde=(SDE, {"dt": 0.1, "dense": True}, "dense: got True", "'sosri'", "ODE methods"),
    dense_adaptive_sde=(SDE, {"rtol": 0.1, "dense": True}, "dense: got True", "'sosri'", "ODE methods"),
    dense_backsolve=(ODE, {"dense": True, "adjoint": "backsolve"}, "dense", "adjoint='backsolve'", "adjoint='direct'"),
)
def test_a_wrong_option_is_refused(case):
    problem, options, *fragments = case
    refused(ValueError, lambda: ss.solve(problem, Y, TS, **options), *fragments)


@pytest.mark.parametrize("progress", ["bar", 1])
def test_progress_is_a_boolean_or_a_function(progress):
    refused(TypeError, lambda: ss.solve(ODE, Y, TS, progress=progress), f"progress: got {progress!r}", "a function")


@cases(
    ode=(ODE, 0, "seed: got 0", "for an ODE, which has no noise"),
    negative=(SDE, -1, "seed: got -1", "0 to 2^64 - 1"),
    too_big=(SDE, 2**64, "seed: got 18446744073709551616", "0 to 2^64 - 1"),
    float=(SDE, 1.0, "seed: got 1.0", "an int"),
    boolean=(SDE, True, "seed: got True", "an int"),
    generator=(SDE, torch.Generator(), "seed: got <torch", "an int"),
)
def test_a_wrong_seed_is_refused(case):
    problem, seed, *fragments = case
    refused(ValueError, lambda: ss.solve(problem, Y, TS, dt=0.1, seed=seed), *fragments)


def test_the_largest_seed_and_a_numpy_seed_are_accepted():
    assert ss.solve(DECAY, Y, TS, dt=0.1, seed=2**64 - 1).seed == 2**64 - 1
    assert ss.solve(DECAY, Y, TS, dt=0.1, seed=np.int64(4)).seed == 4


@cases(
    floats=([1.0, 2.0, 3.0], ValueError, "torch.float32", "(3,) integers"),
    booleans=([True, False, True], ValueError, "torch.bool", "(3,) integers"),
    too_few=([1, 2], ValueError, "paths: got shape (2,)", "(3,) integers, one id a trajectory"),
    number=(3, ValueError, "paths: got shape ()", "(3,) integers"),
    twice=([1, 2, 2], ValueError, "paths: got [1, 2, 2]", "distinct ids"),
    negative=([-1, 2, 3], ValueError, "paths: got [-1, 2, 3]", "from 0 to 2^32 - 1"),
    too_big=([2**32, 2, 3], ValueError, "4294967296", "from 0 to 2^32 - 1"),
    text=("abc", TypeError, "paths: got 'abc'", "(3,) integers"),
)
def test_wrong_trajectory_ids_are_refused(case):
    paths, kind, *fragments = case
    refused(kind, lambda: ss.solve(SDE, Y, TS, dt=0.1, paths=paths), *fragments)


@cases(
    shape=(DECAY, {"brownian": path((3, 1))}, ValueError, "a path of shape (3, 1)", "shape (3, 2)"),
    dtype=(DECAY, {"brownian": path(dtype=torch.float64)}, ValueError, "torch.float64", "torch.float32"),
    far=(DECAY, {"brownian": path(origin=1e9)}, ValueError, "time: got", "cells of length 0.1 of origin = 10000000"),
    far_adaptive=(
        DECAY,
        {"brownian": path(cell=1e-10), "rtol": 0.1},
        ValueError,
        "time: got",
        "cells of length 1e-10 of origin = 0.0",
        "larger cells",
    ),
    shape_adaptive=(DECAY, {"brownian": path((3, 1)), "rtol": 0.1}, ValueError, "of shape (3, 1)", "shape (3, 2)"),
    tensor=(SDE, {"brownian": Y}, TypeError, "brownian: got Tensor", "ss.BrownianPath"),
    with_seed=(SDE, {"brownian": path(), "seed": 1}, ValueError, "seed: got 1 beside brownian=", "first argument"),
    with_paths=(SDE, {"brownian": path(), "paths": [4, 5, 6]}, ValueError, "paths: got [4, 5, 6] beside brownian="),
    ode=(ODE, {"brownian": path()}, ValueError, "brownian: got a path for an ODE", "no noise"),
)
def test_a_wrong_brownian_path_is_refused(case):
    problem, options, kind, *fragments = case
    refused(kind, lambda: ss.solve(problem, Y, TS, dt=0.1, **options), *fragments)


def test_an_adaptive_ode_refuses_a_brownian_path_too():
    refused(ValueError, lambda: ss.solve(ODE, Y, TS, brownian=path()), "brownian: got a path for an ODE")


def test_a_given_path_says_which_seed_and_ids_a_solution_has():
    solution = ss.solve(DECAY, Y, TS, dt=0.1, brownian=path(paths=[7, 8, 9]))
    assert solution.seed == 0
    assert solution.paths.tolist() == [7, 8, 9]


def test_what_python_accepts_as_numbers_is_accepted():
    decay = ss.ODE(lambda t, y: -y)
    wanted = ss.solve(decay, Y, TS, dt=0.1).ys
    for dt in (np.float64(0.1), torch.tensor(0.1, dtype=torch.float64)):
        assert torch.equal(ss.solve(decay, Y, TS, dt=dt).ys, wanted)
    for ts in ([0, 0.5, 1], np.array([0.0, 0.5, 1.0])):
        assert torch.equal(ss.solve(decay, Y, ts, dt=0.1).ys, wanted)
    assert ss.solve(decay, Y, TS, rtol=np.float32(1e-3)).success.all()
    tensor = torch.tensor([1e-3, 1e-6], dtype=torch.float64)
    assert ss.solve(decay, Y, TS, rtol=tensor).ys.dtype == torch.float32

"""What the validation of diffusion processes says of equations that are wrong."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import diffusion
import sdesolve as ss
from diffusion.process import Process, broadcast_time
from validation.check import Settings
from validation.fokker_planck import Cells
from validation.sections import diffusion_density, diffusion_processes
from validation.sections.diffusion import DIFFUSION
from validation.sections.diffusion_density import Simulated, double_well, exact_densities, well
from validation.sections.diffusion_processes import LAWS, PROCESSES, bias, forward, grid, moments, projections, reverse
from validation.significance import histogram, kolmogorov_smirnov_of

QUICK = Settings(quick=True)
PATHS = 3_000


def without_noise_in_the_drift(process, score, eta):
    """The factor (1 + eta^2) / 2 of the score is 1/2."""
    right = diffusion.reverse_sde(process, score, eta)
    return ss.SDE(diffusion.reverse_sde(process, score, 0.0).drift, right.diffusion, additive=True)


def less_noise(process, score, eta):
    """The noise of another eta than the drift's."""
    right = diffusion.reverse_sde(process, score, eta)
    return ss.SDE(right.drift, lambda t, x: 0.9 * right.diffusion(t, x), additive=True)


def without_shift(process, score, eta):
    right = diffusion.reverse_sde(process, score, eta)
    drift = lambda t, x: right.drift(t, x) - process.drift_shift(broadcast_time(t, x))
    return ss.SDE(drift, right.diffusion, additive=True)


WRONG = [
    ("RectifiedFlow", without_noise_in_the_drift),
    ("RectifiedFlow", less_noise),
    ("Affine", without_shift),
]
wrong = pytest.mark.parametrize(("name", "equation"), WRONG, ids=[f"{name}-{each.__name__}" for name, each in WRONG])


@dataclass(frozen=True)
class Louder(diffusion.VP):
    """VP whose noise is five percent more than its sigma says."""

    def diffusion_rate(self, t):
        return 1.05 * super().diffusion_rate(t)


@wrong
def test_wrong_reverse_equations_have_other_fokker_planck_densities(name, equation):
    found = {check.name: check.passed for check in exact_densities(name, equation)}
    assert [passed for each, passed in found.items() if "reverse" in each] == [False] * 3
    assert all(passed for each, passed in found.items() if "reverse" not in each)


@wrong
def test_wrong_reverse_equations_have_other_simulated_marginals(name, equation):
    found = reverse(PROCESSES[name], LAWS["mixture"], name, PATHS, QUICK, 1.0, equation)
    assert not moments(name, "", found).passed
    # a tenth less of the noise is little for distribution functions of so few paths
    assert projections(name, "", found).passed == (equation is less_noise)


def test_rates_that_do_not_belong_to_sigma_are_seen(monkeypatch):
    monkeypatch.setitem(PROCESSES, "VP", Louder())
    checks = {check.name: check.passed for check in exact_densities("VP")}
    assert not checks["VP, forward, Fokker-Planck"]
    assert not moments("VP", "", forward(PROCESSES["VP"], LAWS["Gaussian"], "VP", 10_000, QUICK)).passed


def test_an_equation_in_the_double_well_of_another_calculus_is_seen():
    other = lambda: ss.SDE(double_well().drift, double_well().diffusion, calculus="stratonovich")
    assert all(check.passed for check in well(QUICK))
    assert not any(check.passed for check in list(well(QUICK, "milstein", other))[-2:])


def test_the_bias_of_long_steps_is_seen(monkeypatch):
    assert bias(PROCESSES["EDM"], 1.5) < 0.1
    monkeypatch.setitem(diffusion_processes.STEPS, 1.5, 64)
    assert bias(PROCESSES["EDM"], 1.5) > 1.0


def test_every_process_is_measured_by_every_equation():
    public = (getattr(diffusion, name) for name in diffusion.__all__)
    kinds = {each for each in public if isinstance(each, type) and issubclass(each, Process) and each is not Process}
    assert kinds <= {type(process) for process in PROCESSES.values()}
    found = {case.name for case in DIFFUSION.cases(Settings())}
    equations = ("forward", "reverse, eta = 0.5", "reverse, eta = 1", "reverse, eta = 1.5", "probability flow")
    wanted = {f"{name}, {each}" for name in PROCESSES for each in (*equations, "Fokker-Planck", "bias")}
    assert wanted <= found
    assert len(DIFFUSION.cases(Settings())) == len(found)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_grids_fall_in_equal_steps_of_the_signal_to_noise_ratio(process):
    ts = grid(process, 40)
    steps = process.log_snr(ts).diff()
    assert bool((ts.diff() < 0).all())
    torch.testing.assert_close(steps, steps.mean().expand(40), rtol=1e-9, atol=0)
    assert float(ts[0]) == process.rates_end


def test_scores_are_those_of_the_exact_densities():
    process, x = PROCESSES["Affine"], torch.linspace(-3, 3, 31, dtype=torch.float64)
    for t in (0.01, 0.7, 1.9):
        time = torch.tensor(t, dtype=torch.float64)
        wanted = diffusion_density.MIXTURE.data.denoiser(process).score(t, x[:, None])[:, 0]
        torch.testing.assert_close(diffusion_density.score(process, time, x), wanted, rtol=1e-10, atol=1e-12)


def test_a_histogram_is_held_against_its_monte_carlo_error():
    """Right counts pass for a hundred seeds, near what is expected; a mean that is a tenth of a deviation off fails."""
    generator, p = np.random.default_rng(0), np.full(40, 1 / 40)
    checks = [histogram("x", "y", "z", generator.multinomial(20_000, p), p) for _ in range(100)]
    assert all(check.passed for check in checks)
    mean = np.mean([check.measured for check in checks])
    assert 0.75 < mean / checks[0].details["expected_at_most"] < 0.85  # sqrt(2 / pi) of it
    cells = Cells.graded(6.0, 800)
    normal = lambda x: 0.5 * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())
    shifted = generator.standard_normal(20_000) + 0.1
    found = Simulated("shifted", shifted, cells, cells.masses(normal)).checks("figure", "label")
    assert not any(check.passed for check in found)


def test_tests_of_many_samples_share_one_false_alarm():
    generator = np.random.default_rng(1)
    uniform = lambda x: np.clip(x, 0, 1)
    right = {str(k): (generator.random(1000), uniform) for k in range(20)}
    assert kolmogorov_smirnov_of("x", "y", "z", right).passed
    one = kolmogorov_smirnov_of("x", "y", "z", right | {"bad": (generator.random(1000) ** 1.4, uniform)})
    assert not one.passed
    assert "(bad)" in one.what
    assert not kolmogorov_smirnov_of("x", "y", "z", {"none": (np.full(10, np.nan), uniform)}).passed

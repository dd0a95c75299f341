"""The examples run, shortened, and what they compute is what they say."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

import sdesolve as ss

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("adjoint", ["direct", "backsolve"])
def test_neural_ode(tmp_path, adjoint):
    found = example("neural_ode").main(
        ["--steps", "12", "--trajectories", "8", "--adjoint", adjoint, "--output", str(tmp_path)]
    )
    assert found["last loss"] < 0.7 * found["first loss"]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "neural_ode.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "method, adjoint", [("euler_maruyama", "direct"), ("reversible_heun", "reversible"), ("sra1", "checkpoint")]
)
def test_latent_sde(tmp_path, method, adjoint):
    arguments = ["--steps", "4", "--batch", "4", "--dt", "0.1", "--method", method, "--adjoint", adjoint]
    found = example("latent_sde").main([*arguments, "--output", str(tmp_path)])
    assert found["negative bound a number, last ten"] < found["negative bound a number, first"]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "latent_sde.png").stat().st_size > 10_000


def test_the_paths_kl_is_that_of_girsanov():
    """Constant drifts f and h: 1/2 |f - h|^2 / g^2 T for every path; it is 0 where they are the same."""
    module = example("latent_sde")
    torch.manual_seed(0)
    model = module.LatentSDE(latent=2)
    for net in (model.posterior, model.prior):
        torch.nn.init.zeros_(net[-1].weight)
    with torch.no_grad():
        model.posterior[-1].bias.copy_(torch.tensor([0.7, -0.2]))
        model.prior[-1].bias.copy_(torch.tensor([0.1, 0.3]))
        model.log_g.copy_(torch.tensor([0.5, 2.0]).log())
    times = torch.linspace(0, 3, 7)
    _, path, _ = model.sample_posterior(torch.randn(5, 7), times, seed=0, dt=0.1)
    torch.testing.assert_close(path, torch.full((5,), 0.5 * (0.6**2 / 0.25 + 0.5**2 / 4) * 3))
    with torch.no_grad():
        model.prior[-1].bias.copy_(model.posterior[-1].bias)
    assert model.sample_posterior(torch.randn(5, 7), times, seed=0, dt=0.1)[1].abs().max() == 0


def test_gradients_of_the_bound_are_the_same_by_all_exact_ways():
    module = example("latent_sde")
    _, series = module.sunspots()
    windows, found = torch.stack([series[k : k + 20] for k in (0, 40, 100)]), []
    for adjoint in ("direct", "checkpoint", "reversible"):
        torch.manual_seed(0)
        model = module.LatentSDE()
        how = {"dt": 0.05, "method": "reversible_heun", "adjoint": adjoint}
        loss, _ = model.bound(windows, module.YEAR * torch.arange(20), 1.0, seed=1, **how)
        loss.backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-4 * found[0].norm()


def test_ctrl_c_keeps_what_is_learned(tmp_path, monkeypatch, capsys):
    module, solve, calls = example("neural_ode"), ss.solve, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return solve(*arguments, **options)

    monkeypatch.setattr(module.ss, "solve", interrupted)
    found = module.main(["--steps", "50", "--trajectories", "4", "--output", str(tmp_path)])
    assert found["steps"] == 2 and "stopped after 2 of 50 steps" in capsys.readouterr().out
    assert (tmp_path / "neural_ode.png").exists()


def test_langevin(tmp_path):
    arguments = ["--trajectories", "400", "--time", "5", "--dt", "0.02", "--temperature", "60"]
    found = example("langevin").main([*arguments, "--output", str(tmp_path)])
    assert abs(found["mean energy"] - found["exact mean energy"]) < 4 * found["its standard error"]
    assert abs(found["part beyond the pass"] - found["exact part"]) < 4 * found["its error"]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "langevin.png").stat().st_size > 10_000


def test_langevin_mixture(tmp_path):
    """Plain Langevin dynamics stays where it began; annealed has the weights, within five standard errors."""
    found = example("langevin_mixture").main(["--trajectories", "1000", "--output", str(tmp_path)])
    assert abs(found["Langevin"] - found["at the start"]) < 0.03 and found["Langevin"] > 0.4
    assert abs(found["annealed Langevin"] - found["lower mode, exact"]) < 5 * found["standard error"]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "langevin_mixture.png").stat().st_size > 10_000


def test_continuous_normalising_flow(tmp_path):
    arguments = ["--steps", "12", "--batch", "128", "--held-out", "500", "--dt", "0.25"]
    found = example("continuous_normalising_flow").main([*arguments, "--output", str(tmp_path)])
    assert found["last loss"] < found["first loss"] - 0.5
    assert found["KL divergence from the flow"] > 0
    assert found["negative log-likelihood, held out"] > found["entropy"]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "continuous_normalising_flow.png").stat().st_size > 10_000


def test_the_density_of_a_linear_flow_is_normal():
    """For f = A x the law at t = 0 is normal, with covariance exp(-A) exp(-A)^T."""
    module = example("continuous_normalising_flow")
    matrix = torch.tensor([[0.4, -0.7], [0.2, 0.1]], dtype=torch.float64)
    flow = module.Flow()
    flow.field = Linear(matrix)
    inverse = torch.linalg.matrix_exp(-matrix)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), inverse @ inverse.T)
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(x, rtol=1e-9, atol=1e-9), exact.log_prob(x), rtol=0, atol=1e-7)


class Linear(torch.nn.Module):
    """The field A x."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, t, x):
        return x @ self.matrix.T

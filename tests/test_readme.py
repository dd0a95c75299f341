"""The README's examples run and give what their comments say."""

import re
from pathlib import Path

import matplotlib
import torch

import sdesolve as ss

ROOT = Path(__file__).parent.parent


def example(title: str, blocks: int = 1) -> dict:
    """Run the first Python blocks under a heading; returns their names."""
    text = (ROOT / "README.md").read_text()
    section = text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    names: dict = {}
    found = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(found) >= blocks
    for code in found[:blocks]:
        assert len(code.strip().splitlines()) <= 13
        exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_sde_example_has_the_mean_it_promises():
    matplotlib.use("Agg")
    sol = example("An SDE in ten lines")["sol"]
    assert sol.ys.shape == (11, 10_000, 1)
    # standard deviation below 0.4 over 10,000 trajectories, and a weak error of order dt
    assert abs(sol.ys[-1].mean().item() - (1 - 0.8 * torch.tensor(-2.0).exp().item())) < 4 * 0.4 / 100 + 0.01


def test_the_example_on_one_path_meets_the_same_noise():
    matplotlib.use("Agg")
    names = example("An SDE in ten lines", blocks=2)
    assert (names["coarse"].ys - names["fine"].ys).abs().mean() < 0.01
    assert abs(names["path"](0.25, 0.75).std() - 0.5**0.5) < 0.05


def test_the_diffusion_example_learns_its_two_blobs():
    torch.manual_seed(0)
    x = example("A diffusion model in ten lines")["x"]
    assert (x.abs().mean(0) - 1).abs().max() < 0.1
    assert (x.abs().std(0) < 0.3).all()
    share = (x[:, 0] > 0).float().mean()
    assert 0.35 < share < 0.65


def test_the_checked_example_says_what_is_wrong(capsys):
    example_names = {"torch": torch, "ss": ss}
    text = (ROOT / "README.md").read_text().split("## Methods", 1)[1]
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], example_names)
    told = capsys.readouterr().out
    assert told.startswith("diffusion: component (0,) of trajectory 0 changes with component (1,) of y")
    assert "Write noise='general'" in told


def test_the_page_on_diffusion_runs_from_top_to_bottom():
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "diffusion.md").read_text(), re.DOTALL):
        exec(compile(code, "docs/diffusion.md", "exec"), names)
    process, moons = names["process"], names["two_moons"]
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(names["t"])), names["t"], rtol=1e-12, atol=0)
    surprise, spread = -names["found"].log_prob.mean(), names["found"].log_prob.std() / 500**0.5
    assert moons.entropy - 4 * spread < surprise < moons.entropy + 0.3
    assert abs(names["bound"].bound.mean() + surprise) < 0.2
    assert moons.log_prob(names["x"]).mean() > -3.2  # -5.3 for normal draws of the same covariance

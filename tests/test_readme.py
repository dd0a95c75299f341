"""The README's examples run and give what their comments say."""

import re
from pathlib import Path

import matplotlib
import torch

ROOT = Path(__file__).parent.parent


def example(title: str) -> dict:
    """Run the first Python block under a heading; returns its names."""
    text = (ROOT / "README.md").read_text()
    section = text.split(f"## {title}", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    assert len(code[1].strip().splitlines()) <= 13
    names: dict = {}
    exec(compile(code[1], "README.md", "exec"), names)
    return names


def test_the_sde_example_has_the_mean_it_promises():
    matplotlib.use("Agg")
    sol = example("An SDE in ten lines")["sol"]
    assert sol.ys.shape == (11, 10_000, 1)
    # standard deviation below 0.4 over 10,000 trajectories, and a weak error of order dt
    assert abs(sol.ys[-1].mean().item() - (1 - 0.8 * torch.tensor(-2.0).exp().item())) < 4 * 0.4 / 100 + 0.01


def test_the_diffusion_example_learns_its_two_blobs():
    torch.manual_seed(0)
    x = example("A diffusion model in ten lines")["x"]
    assert (x.abs().mean(0) - 1).abs().max() < 0.1
    assert (x.abs().std(0) < 0.3).all()
    share = (x[:, 0] > 0).float().mean()
    assert 0.35 < share < 0.65

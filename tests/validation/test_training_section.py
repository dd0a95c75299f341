"""A likelihood passes where it is above the entropy, but for the error of its mean, and not too far."""

import pytest
import torch

from validation.sections.diffusion_training import mean_check


@pytest.mark.parametrize(
    "mean, passed", [(-0.2, False), (-0.01, True), (0.0, True), (0.05, True), (0.11, False), (float("nan"), False)]
)
def test_a_mean_passes_from_the_least_value_less_its_error_up_to_the_bound(mean: float, passed: bool) -> None:
    spread = torch.randn(4000, dtype=torch.float64)
    values = 2.0 + mean + (spread - spread.mean()) / spread.std()  # the error is 0.016, and 4.75 of it 0.075
    assert mean_check("set", "what", values, 2.0, 0.1).passed is passed

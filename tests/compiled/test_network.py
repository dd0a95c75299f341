"""What networks consist of, in compiled code: as exact as torch's own, and without passes over memory of their own."""

import numpy as np
import pytest
import torch
from torch._inductor.utils import run_and_get_code

from sdesolve.compiled.network import network_parts

pytestmark = pytest.mark.compile


def compiled(function, *arguments):
    """What the function gives with the rewritings, and its code."""
    torch._dynamo.reset()
    options = {"post_grad_custom_post_pass": network_parts()}
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        found, (code, *_) = run_and_get_code(torch.compile(function, options=options), *arguments)
    return found, code


@pytest.mark.parametrize(("dtype", "units"), [(torch.float32, 2.0), (torch.float64, 2.0)])
def test_tanh_is_within_two_units_in_the_last_place(dtype, units):
    powers = torch.logspace(-30, 1.3, 20_001, dtype=torch.float64)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 0.625, -0.625, 0.62499999], dtype=torch.float64)
    x = torch.cat([torch.linspace(-12, 12, 50_001, dtype=torch.float64), powers, -powers, special]).to(dtype)
    found, code = compiled(torch.tanh, x)
    assert "tanh(" not in code
    exact = torch.tanh(x.double())  # in double precision itself within one unit
    unit = torch.from_numpy(np.spacing(exact.abs().to(dtype).numpy())).double()
    assert float(((found.double() - exact).abs() / unit).max()) <= units
    assert torch.equal(found.signbit()[x != 0], x.signbit()[x != 0])
    assert compiled(torch.tanh, torch.full((3,), torch.nan, dtype=dtype))[0].isnan().all()


def test_other_kinds_keep_their_tanh():
    x = torch.randn(10, dtype=torch.complex64)
    torch.testing.assert_close(compiled(torch.tanh, x)[0], torch.tanh(x))


def test_a_bias_is_added_in_the_kernel_behind_the_product():
    layer, x = torch.nn.Linear(16, 64), torch.randn(33, 16)
    found, code = compiled(lambda x: torch.relu(layer(x)), x)
    torch.testing.assert_close(found, torch.relu(layer(x)))
    assert "addmm(" not in code


def test_a_product_with_a_matrix_added_or_scaled_stays():
    a, b, c = torch.randn(5, 4), torch.randn(4, 3), torch.randn(5, 3)
    for function in (lambda: torch.addmm(c, a, b), lambda: torch.addmm(c[0], a, b, beta=0.5)):
        torch.testing.assert_close(compiled(function)[0], function())

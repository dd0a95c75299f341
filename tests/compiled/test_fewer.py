"""The trajectories that are left of a large batch go on alone: the results are those of the whole batch."""

import pytest
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.compiled import adaptive, fewer

pytestmark = pytest.mark.compile
F64 = torch.float64


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of 8 are large enough; sizes of the parts that were asked for, negative where the functions refused."""
    monkeypatch.setattr(fewer, "LEAST", 8)
    monkeypatch.setattr(fewer, "LEAST_LIGHT", 8)
    found: list[int] = []
    alone = adaptive.Chunks._alone

    def noted(self, carry, point):
        rest = alone(self, carry, point)
        found.append(-1 if rest is None else len(rest[0]))
        return rest

    monkeypatch.setattr(adaptive.Chunks, "_alone", noted)
    return found


def spread(t: Tensor, y: Tensor) -> Tensor:
    """Rotations from slow to fast, and blow-up for y[:, 2] > 0."""
    a, b, c = y.unbind(1)
    w = 1 + 200 * a.square() + 200 * b.square()
    return torch.stack([-w * b, w * a, c.clamp(min=0) ** 2 * 1e3], 1)


def starts(batch: int) -> Tensor:
    radius = torch.linspace(0.01, 1.0, batch, dtype=F64)
    y0 = torch.stack([radius, torch.zeros_like(radius), torch.zeros_like(radius)], 1)
    y0[1, 2] = 1.0
    return y0


@pytest.mark.parametrize("outputs", [2, 4])
def test_an_ode_in_parts_is_the_ode_of_the_whole_batch(parts, outputs, monkeypatch):
    batch = 40
    ts = torch.linspace(0.0, 1.0, outputs, dtype=F64)
    rtol = torch.logspace(-4, -6, batch, dtype=F64)[:, None]

    def run():
        return ss.solve(ss.ODE(spread), starts(batch), ts, rtol=rtol, atol=1e-6, compile=True, on_failure="return")

    found = run()
    assert max(parts) <= batch // 2
    assert len(parts) > outputs - 1, "parts of parts"
    assert (found.status != ss.Status.SUCCESS).nonzero().tolist() == [[1]]
    assert found.ys[-1, 1].isnan().all()
    monkeypatch.setattr(fewer, "LEAST", 10**9)
    parts.clear()
    whole = run()
    assert not parts
    assert torch.equal(found.status, whole.status)
    assert torch.equal(found.stats.steps, whole.stats.steps)
    assert torch.equal(found.stats.rejected, whole.stats.rejected)
    torch.testing.assert_close(found.ys, whole.ys, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.traced
def test_an_sde_in_parts_follows_the_same_paths(parts):
    batch = 40
    sde = ss.SDE(lambda t, y: torch.sin(y) - t * y, lambda t, y: 0.3 * torch.cos(2 * y) + 0.2 * t)
    y0 = torch.linspace(-2, 4, 2 * batch, dtype=F64).reshape(batch, 2)
    ts = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    for tolerance in (1e-2, 1e-3):
        given = {"method": "sosri", "rtol": tolerance, "atol": tolerance, "seed": 3}
        with torch.no_grad():
            compiled, eager = (ss.solve(sde, y0, ts, compile=c, **given) for c in (True, False))
        assert torch.equal(compiled.stats.accepted, eager.stats.accepted)
        assert torch.equal(compiled.stats.rejected, eager.stats.rejected)
        torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-10, atol=1e-10)
    assert parts and min(parts) > 0


@pytest.mark.traced
@pytest.mark.parametrize("kind", ["numbered", "grouped", "closure"])
def test_functions_that_know_the_batch_are_given_all_of_it(parts, kind):
    batch = 24
    rates = torch.linspace(1.0, 300.0, batch, dtype=F64)[:, None]

    def numbered(t, y):
        return -torch.linspace(1.0, 300.0, y.shape[0], dtype=y.dtype)[:, None] * (y - torch.cos(t))

    def grouped(t, y):
        return -torch.where(torch.arange(y.shape[0])[:, None] < 4, 3.0, 300.0) * (y - torch.cos(t))

    f = {"numbered": numbered, "grouped": grouped, "closure": lambda t, y: -rates * (y - torch.cos(t))}[kind]
    y0, ts = torch.linspace(1.0, 3.0, batch, dtype=F64)[:, None], torch.tensor([0.0, 1.0], dtype=F64)
    found = ss.solve(ss.ODE(f), y0, ts, rtol=1e-6, atol=1e-8, compile=True)
    assert parts == [-1], "asked once, and refused"
    eager = ss.solve(ss.ODE(f), y0, ts, rtol=1e-6, atol=1e-8)
    assert torch.equal(found.stats.steps, eager.stats.steps)
    torch.testing.assert_close(found.ys, eager.ys, rtol=1e-10, atol=1e-10)

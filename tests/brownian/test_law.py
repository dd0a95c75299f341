"""The law of the noise. Seeds are fixed; each family of tests has a level of 1 % after Bonferroni."""

import math

import pytest
import torch
from scipy import stats

from sdesolve.brownian import BrownianPath
from sdesolve.brownian.counter import AREA, H, K, W, cell_normals, key_words, off_grid_normals

F32, F64 = torch.float32, torch.float64
COUNT = 200_000
LEVEL = 0.01


def along_cells(seed, dtype=F64):
    return BrownianPath(seed, (1,), cell=1.0, dtype=dtype).increments(-1001, COUNT).flatten()


def along_paths(seed, dtype=F64):
    return BrownianPath(seed, (COUNT,), cell=1.0, dtype=dtype).increments(6, 1).flatten()


def along_channels(seed, dtype=F64):
    return BrownianPath(seed, (1, COUNT), cell=1.0, dtype=dtype).increments(-3, 1).flatten()


def along_seeds(seed, dtype=F64):
    same_path, quad = torch.zeros(COUNT // 4, dtype=torch.int64), torch.tensor([0])
    keys = [(k0, torch.tensor(0)) for k0 in (torch.arange(COUNT) + seed).chunk(4)]
    return torch.cat([cell_normals(key, same_path, 1, quad, dtype)[2].flatten() for key in keys])


def along_ticks(seed, dtype=F64):
    cells, ticks = torch.arange(COUNT) // 100, torch.arange(COUNT) % 100 * 2**24
    return off_grid_normals(key_words(seed), torch.tensor([0]), 1, cells, ticks, dtype)[0].flatten()


SAMPLES = [along_cells, along_paths, along_channels, along_seeds, along_ticks]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("sample", SAMPLES)
def test_normals_are_standard_normal(sample, dtype):
    z = sample(11, dtype).double()
    level = LEVEL / (5 * len(SAMPLES) * 2)
    quantile = stats.norm.isf(level / 2)
    # Mean and variance of z^k under N(0, 1) are m_k and m_2k - m_k^2, with moments 1, 3, 15, 105.
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean().item() - mean) < quantile * math.sqrt(variance / COUNT)
    assert stats.kstest(z.numpy(), "norm").pvalue > level


def test_the_test_of_the_law_sees_a_wrong_scale():
    z = along_cells(11) * 1.01
    assert stats.kstest(z.numpy(), "norm").pvalue < 1e-2
    assert abs((z**2).mean().item() - 1) > 6 * math.sqrt(2 / COUNT)


def pairs():
    for sample in SAMPLES:
        z = sample(12)
        for lag in (1, 2, 3, 4, 1024):
            yield f"{sample.__name__}, lag {lag}", z[:-lag], z[lag:]
        yield f"{sample.__name__}, seeds 12 and 13", z, sample(13)
        yield f"{sample.__name__}, seeds 12 and 12 + 2^32", z, sample(12 + 2**32)
    for i, a in enumerate(SAMPLES):
        for b in SAMPLES[:i]:
            yield f"{a.__name__}, {b.__name__}", a(12), b(12)
    key, path, quads = key_words(12), torch.tensor([0]), torch.arange(COUNT // 4)
    streams = [cell_normals(key, path, 1, quads, F64, stream).flatten() for stream in (W, H, K, AREA)]
    for i, a in enumerate(streams):
        for j, b in enumerate(streams[:i]):
            yield f"streams {i}, {j}", a, b


def test_cells_paths_channels_seeds_steps_and_streams_are_independent():
    cases = [case for case in pairs() if not torch.equal(case[1], case[2])]
    level = LEVEL / (3 * len(cases))
    quantile = stats.norm.isf(level / 2)
    for name, a, b in cases:
        # For independent normals, the mean of f(a) g(b) with f, g centred of variance 1 is N(0, 1 / n).
        for f, g in [(lambda x: x, lambda x: x), (square, square), (lambda x: x, square)]:
            assert abs((f(a) * g(b)).mean().item()) < quantile / math.sqrt(len(a)), name
    assert len(cases) > 40


def square(x):
    return (x**2 - 1) / math.sqrt(2)


def test_increments_have_the_variance_of_their_interval():
    path = BrownianPath(14, (20_000, 5), cell=0.02, dtype=F64)
    for s, t in [(0.0, 0.02), (0.0, 1.0), (-0.5, 0.3)]:
        z = (path(s, t) / math.sqrt(t - s)).flatten()
        assert stats.kstest(z.numpy(), "norm").pvalue > LEVEL / 4
    overlap = (path(0.0, 0.6) * path(0.4, 1.0)).mean().item()
    assert overlap == pytest.approx(0.2, abs=3 * math.sqrt((0.6**2 + 0.2**2) / 1e5))

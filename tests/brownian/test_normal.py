import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdesolve.brownian.normal import box_muller, uniform

WORDS = torch.tensor([0, 1, 2, 255, 2**24 - 1, 2**24, 2**24 + 1, 2**25 + 3, 2**31, 2**32 - 129, 2**32 - 1])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_float32_uniform_is_the_centre_of_its_word_rounded_once(words):
    w = torch.cat((torch.tensor(words), WORDS))
    exact = (w.double() + 0.5) / 2**32  # exact in float64
    assert torch.equal(uniform(w), exact.float())
    leading, trailing = (w >> 8).float() * 2.0**-24, ((w & 255).float() + 0.5) * 2.0**-32
    assert torch.equal(uniform(w), leading + trailing)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_float64_uniform_has_64_bits_rounded_once(word, finer):
    u = uniform(torch.tensor(word), torch.tensor(finer))
    assert u.item() == (2 * (word * 2**32 + finer) + 1) / 2**65


@pytest.mark.parametrize("finer", [None, torch.tensor([0, 2**32 - 1, 0, 2**32 - 1])])
def test_extreme_words_give_finite_normals(finer):
    u = uniform(torch.tensor([0, 0, 2**32 - 1, 2**32 - 1]), finer)
    assert (u > 0).all() and (u <= 1).all()
    for angle in u:
        assert all(torch.isfinite(z).all() for z in box_muller(u, angle))


def test_tails_reach_beyond_six_and_a_half_standard_deviations():
    z, _ = box_muller(uniform(torch.tensor(0)), torch.tensor(1.0))
    assert z.item() == pytest.approx(math.sqrt(2 * 33 * math.log(2)))


def test_box_muller_takes_radius_from_the_first_and_angle_from_the_second():
    z0, z1 = box_muller(torch.tensor(math.exp(-2.0)).double(), torch.tensor(0.125).double())
    assert z0.item() == pytest.approx(math.sqrt(2), abs=1e-6)
    assert z1.item() == pytest.approx(math.sqrt(2), abs=1e-6)
    _, quarter = box_muller(torch.tensor(math.exp(-2.0)).double(), torch.tensor(0.25).double())
    assert quarter.item() == pytest.approx(2.0)

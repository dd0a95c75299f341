import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdesolve.brownian.philox import philox4x32
from tests.brownian.reference import philox

WORD = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1])


def tensors(*words):
    return [torch.tensor(word) for word in words]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert tuple(map(int, philox4x32(*tensors(*counter), *tensors(*key)))) == answer
    assert philox(counter, key) == answer


@given(st.lists(st.tuples(*[WORD] * 6), min_size=1, max_size=40))
def test_philox_agrees_with_integer_arithmetic(names):
    words = [torch.tensor(column) for column in zip(*names, strict=True)]
    before = [word.clone() for word in words]
    out = torch.stack(philox4x32(*words), -1).tolist()
    assert [tuple(row) for row in out] == [philox(name[:4], name[4:]) for name in names]
    assert all(torch.equal(a, b) for a, b in zip(words, before, strict=True)), "inputs were changed"


def test_philox_broadcasts_counters_and_keys():
    c = [torch.arange(3).view(3, 1, 1), torch.arange(4).view(4, 1), torch.arange(5), torch.tensor(7)]
    k = [torch.arange(2).view(2, 1, 1, 1), torch.tensor(9)]
    small = philox4x32(*c, *k)
    full = philox4x32(*[word.expand(2, 3, 4, 5).contiguous() for word in (*c, *k)])
    assert all(a.shape == (2, 3, 4, 5) and torch.equal(a, b) for a, b in zip(small, full, strict=True))


def test_philox_is_a_bijection_of_its_counters():
    words = philox4x32(torch.arange(2**16), *tensors(5, 6, 7), *tensors(8, 9))
    assert len(torch.unique(torch.stack(words, -1), dim=0)) == 2**16

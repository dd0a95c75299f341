import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdesolve.brownian import philox as module
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


@pytest.mark.parametrize("shapes", [((1, 30_000), (3, 1), (1, 30_000), (1, 1)), ((90_000,),) * 4])
def test_all_ways_of_computing_give_the_same_words(monkeypatch, shapes):
    """NumPy's operations, torch's in place for several threads, and those that are compiled; 90,000 calls are enough
    for threads."""
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    words = [torch.randint(2**32, shape, generator=generator) for shape in shapes]
    words[1].reshape(-1)[:3] = torch.tensor([0, 2**31, 2**32 - 1])
    before, key = [word.clone() for word in words], tensors(2**32 - 1, 0x299F31D0)
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert module.shared_among_threads(90_000) == (count == 2)
            found.append(philox4x32(*words, *key))
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(module, "is_plain", lambda x: False)
    plain = philox4x32(*words, *key)
    assert all(torch.equal(a, b) for ways in found for a, b in zip(ways, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(words, before, strict=True)), "inputs were changed"
    one = [int(x.expand(plain[0].shape).flatten()[70_001]) for x in words]
    assert tuple(int(x.flatten()[70_001]) for x in plain) == philox(one, tuple(map(int, key)))

"""Compiled products of 32-bit words are one instruction, and those of other integers stay what they are."""

import platform

import pytest
import torch
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.utils import run_and_get_code

from sdesolve.brownian.philox import philox4x32
from sdesolve.compiled.words import products_of_words

pytestmark = pytest.mark.compile

WORD = 0xFFFFFFFF
INSTRUCTIONS = ("_mm512_mul_epu32", "_mm256_mul_epu32")


def compiled(function, *arguments):
    """What the function gives when compiled with words seen, and whether a product of words was written."""
    torch._dynamo.reset()
    with products_of_words(), torch._inductor.config.patch(force_disable_caches=True):
        found, codes = run_and_get_code(torch.compile(function), *arguments)
    return found, any(name in code for code in codes for name in INSTRUCTIONS)


def has_vectors():
    return platform.machine() in ("x86_64", "AMD64") and str(pick_vec_isa()).startswith("avx")


@pytest.mark.skipif(not has_vectors(), reason="needs AVX2 or AVX-512")
def test_masked_factors_are_multiplied_as_words():
    # more than a vector, and a rest
    a, b = (torch.randint(-(2**63), 2**63 - 1, (1003,), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    for function in (lambda a, b: (a & WORD) * (b & WORD), lambda a, b: (a & WORD) * 0xD2511F53):
        found, words = compiled(function, a, b)
        assert words
        assert torch.equal(found, function(a, b))


def test_other_factors_are_multiplied_in_64_bits():
    a, b = (torch.randint(-(2**63), 2**63 - 1, (1003,), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    for function in (
        lambda a, b: a * b,
        lambda a, b: (a & WORD) * b,
        lambda a, b: (a & WORD) * (2**32 + 1),
        lambda a, b: (a & WORD) * -3,
        lambda a, b: (a & (2**40 - 1)) * (b & WORD),
    ):
        found, words = compiled(function, a, b)
        assert not words
        assert torch.equal(found, function(a, b))


def test_compiled_philox_gives_the_eager_words():
    words = [torch.randint(0, 2**32, (257,), generator=torch.Generator().manual_seed(i)) for i in range(6)]
    found, _ = compiled(lambda *words: philox4x32(*words), *words)
    for a, b in zip(found, philox4x32(*words), strict=True):
        assert torch.equal(a, b)

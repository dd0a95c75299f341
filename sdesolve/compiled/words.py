"""Products of 32-bit words in compiled code on the CPU.

A round of Philox multiplies words below 2^32 that are held in int64. A product of two such words is one instruction of
AVX2 and AVX-512 (pmuludq), where a product of any two 64-bit numbers is several; inductor writes the latter. Here it is
told to write the former where both factors are known to be words: masked with 2^32 - 1, or constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx

WORD = 0xFFFFFFFF
#: instruction by instruction set
_PRODUCTS = {"avx512": "_mm512_mul_epu32", "avx2": "_mm256_mul_epu32"}


def is_word(node: Any) -> bool:
    """Whether a value in the body of inductor's loop is below 2^32, and not below 0."""
    if not isinstance(node, fx.Node):
        return False
    if node.target == "constant":
        return isinstance(node.args[1], int) and 0 <= node.args[1] <= WORD
    masks = node.args[1:] if node.target == "bitwise_and" else ()
    return any(isinstance(x, fx.Node) and x.target == "constant" and x.args[1] == WORD for x in masks)


def _product(plain: Any) -> Any:
    """Inductor's product of two vectors, with words seen."""
    import torch
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.virtualized import V

    def mul(a: Any, b: Any) -> str:
        node = getattr(V.interpreter, "current_node", None)
        instruction = _PRODUCTS.get(str(pick_vec_isa()).split(" ")[0])
        words = node is not None and node.target == "mul" and all(map(is_word, node.args[1:]))
        if instruction is None or not words or a.dtype != torch.int64 or b.dtype != torch.int64:
            return str(plain(a, b))
        one = f"at::vec::Vectorized<int64_t>({instruction}"
        count = V.kernel._get_num_vectors(torch.int64)
        if count == 1:
            return f"{one}({a}, {b}))"
        each = f"for (int i = 0; i < {count}; ++i) z[i] = {one}(x[i], y[i]));"
        return f"[](const auto& x, const auto& y) {{ auto z = x; {each} return z; }}({a}, {b})"

    return mul


@contextmanager
def products_of_words() -> Iterator[None]:
    """What is compiled inside multiplies words as such."""
    from torch._inductor.codegen.cpp import CppVecOverrides

    plain = CppVecOverrides.mul
    CppVecOverrides.mul = staticmethod(_product(plain))  # type: ignore[method-assign]
    try:
        yield
    finally:
        CppVecOverrides.mul = staticmethod(plain)  # type: ignore[method-assign]

"""Noise that is asked for again on a way back."""

import torch

from sdesolve.brownian.levy import Increment
from sdesolve.brownian.steps import REMEMBERED, Remembered


class Counting:
    """Draws a block of given size and counts how often."""

    size = 4

    def __init__(self, numbers):
        self.numbers, self.drawn = numbers, []

    def __call__(self, first, last):
        self.drawn.append((first, last))
        return Increment(torch.full((self.numbers,), float(first)))


def test_blocks_that_fit_are_drawn_once():
    source = Counting(REMEMBERED // 8)
    noise, blocks = Remembered(source), [(4 * k, 4 * k + 4) for k in range(8)]
    forwards = [noise(*block) for block in blocks]
    backwards = [noise(*block) for block in reversed(blocks)]
    assert source.drawn == blocks
    assert all(torch.equal(a.w, b.w) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_no_more_is_kept_than_there_is_room_for_and_the_last_blocks_are():
    source = Counting(REMEMBERED // 2)
    noise, blocks = Remembered(source), [(4 * k, 4 * k + 4) for k in range(5)]
    for block in blocks:
        noise(*block)
    assert list(noise.kept) == blocks[-2:]
    for block in reversed(blocks):
        assert noise(*block).w[0] == block[0]
    assert source.drawn == blocks + blocks[2::-1]
    alone = Remembered(Counting(2 * REMEMBERED))
    alone(0, 4)
    alone(4, 8)
    assert list(alone.kept) == [(4, 8)]

"""Motions with events whose times are known in closed form."""

import math

import torch

import sdesolve as ss

F64 = torch.float64
G = 9.81


def fall(t, y):
    """(height, velocity) under gravity."""
    return torch.stack([y[..., 1], torch.full_like(y[..., 0], -G)], -1)


def swing(t, y, omega=1.0):
    """(place, velocity) of an oscillator."""
    return torch.stack([y[..., 1], -(omega**2) * y[..., 0]], -1)


def first(t, y):
    """The condition that the first component is zero."""
    return y[..., 0]


def bounce(restitution):
    """The event of hitting the ground, or a wall at 0, from above."""

    def turned(t, y):
        return torch.stack([y[..., 0], -restitution * y[..., 1]], -1)

    return ss.Event(first, direction=-1, affect=turned)


def bounces(height, restitution, count):
    """Times of the first bounces of a ball that is dropped."""
    time, speed = math.sqrt(2 * height / G), math.sqrt(2 * G * height)
    times = [time]
    for _ in range(count - 1):
        speed *= restitution
        times.append(times[-1] + 2 * speed / G)
    return torch.tensor(times, dtype=F64)


def ball(height, restitution, time):
    """Height of the dropped ball, of tensors."""
    hit, speed = torch.sqrt(2 * height / G), torch.sqrt(2 * G * height)
    if time <= hit:
        return height - G * time**2 / 2
    while True:
        speed = restitution * speed
        if time <= hit + 2 * speed / G:
            return speed * (time - hit) - G * (time - hit) ** 2 / 2
        hit = hit + 2 * speed / G


def span(*ts):
    return torch.tensor(ts, dtype=F64)


def dropped(*heights):
    """At rest."""
    return torch.tensor([[height, 0.0] for height in heights], dtype=F64)


def assert_balls_bounce(sol, heights, ts):
    """Of balls that are dropped, with restitution 0.9, the first one 20 times: times, speeds and heights are exact."""
    assert sol.success.all() and (sol.events[0].counts >= 11).all() and sol.events[0].counts[0] == 20
    for i, height in enumerate(heights):
        count = int(sol.events[0].counts[i])
        exact = bounces(height, 0.9, count + 1)
        torch.testing.assert_close(sol.events[0].times[:count, i], exact[:count], rtol=1e-12, atol=0)
        assert sol.events[0].times[count:, i].isnan().all() and exact[count] > ts[-1]
        speed = -math.sqrt(2 * G * height) * 0.9 ** torch.arange(count, dtype=F64)
        torch.testing.assert_close(sol.events[0].ys[:count, i, 1], speed, rtol=1e-12, atol=0)
        known = [ball(torch.tensor(height, dtype=F64), 0.9, t) for t in ts]
        torch.testing.assert_close(sol.ys[:, i, 0], torch.stack(known), rtol=0, atol=1e-11)

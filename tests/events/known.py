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

"""Langevin dynamics: sampling from the density of a score."""

from .first_order import annealed_langevin, langevin
from .underdamped import underdamped_langevin

__all__ = ["annealed_langevin", "langevin", "underdamped_langevin"]

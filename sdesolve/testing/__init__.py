"""Tools for those who test numerical code: checks of a problem's promises."""

from sdesolve.testing.check import check_problem

__all__ = ["check_problem"]

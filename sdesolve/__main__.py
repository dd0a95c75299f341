"""The command line: ``python -m sdesolve methods`` lists the methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sdesolve import methods
from sdesolve.problem import CALCULI, NOISES


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command, from the arguments of the process by default, and print what it asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m sdesolve", description="Stochastic and ordinary differential equations."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("methods", help="all methods: orders, noise, evaluations, sources")
    listing.add_argument("--problem", choices=methods.PROBLEMS, help="those of one kind of problem")
    listing.add_argument("--noise", choices=NOISES, help="those for SDEs with this noise")
    listing.add_argument("--calculus", choices=CALCULI, help="those for SDEs in this calculus")
    asked = parser.parse_args(arguments)
    if asked.problem in methods.NOISELESS and (asked.noise or asked.calculus):
        listing.error("--noise and --calculus are of SDEs; accepted with them is --problem sde, langevin or semilinear")
    print(methods.table(asked.problem, noise=asked.noise, calculus=asked.calculus))


if __name__ == "__main__":
    main()

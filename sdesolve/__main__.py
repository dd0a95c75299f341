"""The command line: ``python -m sdesolve methods`` lists the methods."""

from __future__ import annotations

import argparse

from sdesolve import methods


def main() -> None:
    """Read the command and print what it asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m sdesolve", description="Stochastic and ordinary differential equations."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("methods", help="all methods: orders, noise, evaluations, sources")
    listing.add_argument("--problem", choices=["ode", "sde", "langevin"], help="those of one kind of problem")
    print(methods.table(parser.parse_args().problem))


if __name__ == "__main__":
    main()

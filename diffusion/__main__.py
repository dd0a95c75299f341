"""The command line: ``python -m diffusion demo``, and on your own data ``train``, ``sample``, ``likelihood``."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

import sdesolve as ss

from .commands import demo, likelihood, sample, train
from .fit import TrainingInterrupted

FAILED = 1
MISTAKE = 2
INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None)
"""A file could not be written for no fault of the request; numpy.save says so in an OSError without a number."""
NO_MEMORY = ("out of memory", "allocate memory")
"""In what torch says, in an error of no type of its own on a CPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a computation that failed, 2 for a mistake in the request, 130
    after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except TrainingInterrupted as interrupt:
        print(f"\ninterrupted after {interrupt.step} steps", file=sys.stderr)
        if interrupt.checkpoint is not None:
            print(
                f"the training so far is in {interrupt.checkpoint}; "
                "give the same command with --resume to go on from there",
                file=sys.stderr,
            )
        return INTERRUPTED
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished before has been written", file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        print(f"error: {error}; pip install 'sdesolve[diffusion]' brings what is missing", file=sys.stderr)
        return MISTAKE
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED if type(error) is OSError and error.errno in NO_ROOM else MISTAKE
    except (ArithmeticError, MemoryError, ss.SolveError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_MEMORY):
            raise
        print(f"error: {str(error).splitlines()[0]}; take smaller batches or a smaller network", file=sys.stderr)
        return FAILED
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    result = argparse.ArgumentParser(prog="python -m diffusion", description="Diffusion models from the command line.")
    commands = result.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (demo, train, sample, likelihood):
        command.add(commands)
    return result


if __name__ == "__main__":
    sys.exit(main())

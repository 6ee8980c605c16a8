"""``gfopt bench`` in one of several processes, which meet after every run."""

from __future__ import annotations

import sys

import jax

from gfopt.cli.main import main
from gfopt.research import shares

NO_GLOO = 77  # exit code where these processes can't talk


def odd(fun, x0, budget, seed):
    """An optimizer that fails in the runs of one process."""
    fun(x0)
    if jax.process_index() == 1:
        raise ArithmeticError("odd")


if __name__ == "__main__":
    shares.MEET_SECONDS = 0.0
    main(sys.argv[1:])

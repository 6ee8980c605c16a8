"""The 24 BBOB functions in one program: the number of the function is data.

A `BBOBProblem` has its number in its structure, so that each function is a program. A
method takes longer to compile than all 24 formulas; in a study of many functions the
formulas are therefore the branches of one program.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
from jax import lax

from gfopt.problems.bbob_suite.bbob_suite import BBOBProblem
from gfopt.problems.bbob_suite.functions import BBOB_FUNCTIONS
from gfopt.problems.bbob_suite.transforms import Peaks

_MOST_PEAKS = max(row.peaks for row in BBOB_FUNCTIONS.values())


def uniform(problems: BBOBProblem) -> BBOBProblem:
    """Gives stacked instances the structure that those of all functions share.

    What a function does not have is zeros, which its formula does not read.

    Args:
        problems: from `bbob_batch`, `[N]` instances.

    Returns:
        The same instances, to be called with `value`.

    Example:
        >>> from gfopt.problems import bbob_batch
        >>> sphere, gallagher = (uniform(bbob_batch(f, 5, [1, 2])) for f in (1, 21))
        >>> jax.tree.structure(sphere) == jax.tree.structure(gallagher)
        True
    """
    count, dimension = problems.x_opt.shape
    peaks = np.zeros((2, count, _MOST_PEAKS, dimension))
    if problems.peaks is not None:
        peaks[:, :, : problems.peaks.centers.shape[1]] = problems.peaks
    none = np.zeros((count, dimension, dimension))
    return dataclasses.replace(
        problems,
        function=0,
        rotation_r=none if problems.rotation_r is None else problems.rotation_r,
        rotation_q=none if problems.rotation_q is None else problems.rotation_q,
        peaks=Peaks(*peaks),
    )


def value(function: jax.Array, problem: BBOBProblem, x: jax.Array) -> jax.Array:
    """Returns f(x), where only the formula of the function is computed.

    Args:
        function: its number, `int32[]`. Not to be mapped over by `jax.vmap`, which
            would compute all 24 formulas.
        problem: one instance, of `uniform` structure.
        x: `[D]`.
    """
    branches = [partial(_value, number) for number in BBOB_FUNCTIONS]
    return lax.switch(function - 1, branches, problem, x)


def _value(number: int, problem: BBOBProblem, x: jax.Array) -> jax.Array:
    count = BBOB_FUNCTIONS[number].peaks
    peaks = jax.tree.map(lambda leaf: leaf[:count], problem.peaks)
    return dataclasses.replace(problem, function=number, peaks=peaks)(x)

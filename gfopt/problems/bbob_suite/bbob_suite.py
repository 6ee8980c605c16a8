"""The 24 noiseless BBOB functions, the standard test bed of black-box optimization.

A BBOB problem is one of 24 functions in `D` dimensions, moved, rotated and shifted by
the random numbers of its instance. `bbob(function, dimension, instance)` draws those on
the host and returns a `BBOBProblem`: a pytree that is called with `x: [D]` and returns
f(x). Values agree with the `coco-experiment` package in double precision, so results
can be set beside the published ones.

The formulas are in `functions`, their building blocks in `transforms`.

Reference: N. Hansen, S. Finck, R. Ros and A. Auger, "Real-Parameter Black-Box
Optimization Benchmarking 2009: Noiseless Functions Definitions", RR-6829, INRIA, 2009.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.bbob_suite import transforms as draw
from gfopt.problems.bbob_suite.functions import BBOB_FUNCTIONS
from gfopt.pytree import pytree, static

# Above this the seeds, about 10000 times the instance, leave the generator's range.
_MAX_INSTANCE = 200_000


@pytree(eq=False)
class BBOBProblem:
    """One BBOB problem, or several instances of one stacked along a leading axis.

    Make it with `bbob` or `bbob_batch`. The instance data are double-precision NumPy
    leaves, converted to the dtype of `x` in the call, so one object serves single
    precision and, under `jax.enable_x64(True)`, double precision. (The usual target,
    f_opt + 1e-8, exists in double precision only.) Instances of one function and
    dimension stack, and `jax.vmap(lambda p, x: p(x))` runs over them.

    Attributes:
        function: Number of the function, 1 to 24 (static).
        dimension: `D` (static).
        instance: Number of the instance.
        x_opt: `[D]`, the optimum; where there are several (f16, f23), the one at which
            the function is centered; for f5 the corner next to the unbounded optima.
        f_opt: `[]`, the value of the optimum.
        rotation_r: `[D, D]`, the rotation R, or None where the function has none.
        rotation_q: `[D, D]`, the rotation Q, or None where the function has none.
        peaks: The peaks of f21 and f22, else None.
    """

    function: int = static()
    dimension: int = static()
    instance: Any
    x_opt: Any = dataclasses.field(repr=False)
    f_opt: Any = dataclasses.field(repr=False)
    rotation_r: Any = dataclasses.field(default=None, repr=False)
    rotation_q: Any = dataclasses.field(default=None, repr=False)
    peaks: Any = dataclasses.field(default=None, repr=False)

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        """Returns f(x), a scalar, for `x: [D]`, in the dtype of `x`.

        Raises:
            ValueError: If `x` is not of shape `[D]`, or if this is a stack of
                instances that is called outside of `jax.vmap`.
        """
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(float)
        if x.shape != (self.dimension,):
            raise ValueError(
                f"x must have shape ({self.dimension},); got shape {x.shape}; "
                "use jax.vmap for several points"
            )
        if jnp.ndim(self.f_opt) != 0:
            raise ValueError(
                "problem must be one instance; got a stack of shape "
                f"{jnp.shape(self.f_opt)}: call it under jax.vmap(lambda p, x: p(x))"
            )
        # Every leaf in the dtype of x, even the instance number, which nothing reads.
        problem = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), self)
        return BBOB_FUNCTIONS[self.function].formula(problem, x) + problem.f_opt


def bbob(function: int, dimension: int, instance: int = 1) -> BBOBProblem:
    """Makes an instance of one of the 24 noiseless BBOB functions.

    f(x) = g(T(x - x_opt)) + f_opt, with g and the transformations T as the report
    defines them; lower is better and the domain of interest is [-5, 5]^D. The suite
    is published for 2 to 40 dimensions; above, the same definition is continued.

    Args:
        function: Number of the function, 1 to 24; `BBOB_NAMES` names them.
        dimension: `D`, 2 or above.
        instance: Number of the instance, 1 to 200000.

    Returns:
        The problem, to be called with `x: [D]`.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is out of its range.

    Source: Hansen, Finck, Ros and Auger, INRIA report RR-6829 (2009).

    Example:
        >>> problem = bbob(function=1, dimension=2, instance=1)
        >>> problem.x_opt, float(problem.f_opt)
        (array([ 0.2528, -1.1568]), 79.48)
        >>> print(f"{problem(problem.x_opt + np.asarray([3.0, 4.0])):.2f}")
        104.48
    """
    checks.integer("function", function, 1)
    checks.within("function", function, 1, len(BBOB_FUNCTIONS))
    checks.integer("dimension", dimension, 2)
    checks.integer("instance", instance, 1)
    checks.within("instance", instance, 1, _MAX_INSTANCE)
    function, dimension, instance = int(function), int(dimension), int(instance)
    row = BBOB_FUNCTIONS[function]
    seed = (row.seed_of or function) + 10_000 * instance
    rotation_seeds = {"R": seed + draw.R_SEED_OFFSET, "Q": seed}
    rotations = {
        letter: draw.rotation(rotation_seeds[letter], dimension)
        for letter in row.rotations
    }
    return BBOBProblem(
        function=function,
        dimension=dimension,
        instance=np.asarray(instance, np.int32),
        x_opt=row.optimum(seed, dimension),
        f_opt=np.asarray(draw.optimal_value(seed)),
        rotation_r=rotations.get("R"),
        rotation_q=rotations.get("Q"),
        peaks=draw.gallagher_peaks(seed, dimension, row.peaks) if row.peaks else None,
    )


def bbob_batch(function: int, dimension: int, instances: Sequence[int]) -> BBOBProblem:
    """Makes several instances of one BBOB function, stacked along a leading axis.

    Every leaf of the result has the leading axis `[len(instances)]`; map over it with
    `jax.vmap(lambda p, x: p(x))`.

    Args:
        function: Number of the function, 1 to 24.
        dimension: `D`, 2 or above.
        instances: Numbers of the instances, at least one.

    Returns:
        The stacked problem.

    Raises:
        TypeError: If an argument is not an integer, or `instances` not a sequence.
        ValueError: If an argument is out of its range, or `instances` is empty.

    Source: Hansen, Finck, Ros and Auger, INRIA report RR-6829 (2009).

    Example:
        >>> problems = bbob_batch(1, 2, instances=[1, 2, 3])
        >>> values = jax.vmap(lambda p: p(jnp.zeros(2)))(problems)
        >>> values.shape
        (3,)
    """
    checks.instance(
        "instances", instances, (list, tuple, range, np.ndarray), "a list of integers"
    )
    if len(instances) == 0:
        raise ValueError("instances must have one entry or more; got none")
    problems = [bbob(function, dimension, instance) for instance in instances]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *problems)

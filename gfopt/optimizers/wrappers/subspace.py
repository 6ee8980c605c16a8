"""Search in a random subspace of few dimensions.

    x = x0 + A z,   z in R^d,   A in R^{D x d}

A method for a few hundred numbers searches a large solution, such as a soft prompt: its
members remain vectors of d numbers. The columns of A are random, so that good solutions
are likely to be near if only a few dimensions matter.

Sources: Wang et al., "Bayesian optimization in a billion dimensions via random
embeddings" (JAIR 2016), section 3; Sun et al., "Black-box tuning for
language-model-as-a-service" (ICML 2022), equation 2. Deviation: A is scaled so that a
step of sigma in each number of z moves each number of x by about sigma.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy import lazy
from gfopt.noise import noise, threefry
from gfopt.protocol import Method, Optimizer, Wrapper
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State

KINDS = ("gaussian", "orthogonal")


class SubspaceState(NamedTuple):
    """The inner method's state, and the subspace.

    Attributes:
        step: ``i32[]``.
        inner: the state of the search for z, ``float[d]``.
        origin: ``x0``.
        basis: the columns of A, a tree like ``x0`` with a leading axis ``d``.
    """

    step: jax.Array
    inner: State
    origin: Solution
    basis: Solution


@pytree
class Subspace(Wrapper):
    """Runs ``inner`` on z and shows the objective ``x = x0 + A z``.

    The state holds A: as much memory as d solutions.

    Args:
        inner: a method for d numbers, which starts at 0.
        dimension: d; None if ``basis`` is given, which then determines it.
        kind: ``"gaussian"``, independent numbers of variance ``1 / d``, or
            ``"orthogonal"``, columns at right angles of length ``sqrt(D / d)``.
        basis: A itself, a tree like ``x0`` whose leaves have a leading axis ``d``; None
            for a random one, which ``init`` draws.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or a basis that does not fit.

    Example:
        >>> import gfopt
        >>> method = gfopt.Subspace(gfopt.CMAES(sigma=0.5), dimension=8)
        >>> def far(x):  # 400 numbers, of which two directions count
        ...     return (x[:200].mean() - 1) ** 2 + (x[200:].mean() + 2) ** 2
        >>> result = gfopt.run(method, far, jnp.zeros(400), key=jax.random.key(0),
        ...                    generations=60)
        >>> bool(far(result.recommended) < 1e-4), result.state.inner.mean.shape
        (True, (8,))
    """

    inner: Optimizer
    dimension: int | None = static(default=None)
    kind: str = static(default="gaussian")
    basis: Solution = None

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.one_of("kind", self.kind, KINDS)
        if self.basis is None:
            if self.dimension is None:
                raise ValueError("dimension must be given where basis is not; got None")
            checks.integer("dimension", self.dimension, 1)
        elif self.dimension is not None:
            raise ValueError(
                f"dimension must be None where basis is given; got {self.dimension}"
            )

    @property
    def search_space(self) -> None:
        """None: the inner method does not search numbers of x."""
        return None

    drawn_within = Method.drawn_within  # its search has other coordinates

    def init(self, key: Key, solution: Solution) -> SubspaceState:
        """Draws A, and starts the inner method at ``z = 0``."""
        origin = trees.starting_point(solution)
        basis_key, inner_key = jax.random.split(key)
        if self.basis is None:
            basis = self._drawn(basis_key, origin)
        else:
            basis = self._given(origin)
        d = jax.tree.leaves(basis)[0].shape[0]
        start = jnp.zeros(d, trees.wide_dtype(origin))
        inner = self.inner.init(inner_key, start)
        return SubspaceState(jnp.int32(0), inner, origin, basis)

    def _drawn(self, key: Key, origin: Solution) -> Solution:
        flat, unravel = ravel_pytree(origin)
        d, size = int(self.dimension or 1), flat.size
        if self.kind == "orthogonal" and d > size:
            raise ValueError(
                f"dimension must be at most {size}, the numbers of x0, for orthogonal "
                f"columns; got {d}"
            )

        def column(seed: jax.Array) -> jax.Array:
            return ravel_pytree(noise.gaussian().sample(origin, seed))[0]

        columns = jax.vmap(column)(threefry.seeds(key, d))  # [d, D]
        columns = columns.astype(trees.wide_dtype(origin))
        if self.kind == "gaussian":
            columns = columns / math.sqrt(d)
        else:
            columns = jnp.linalg.qr(columns.T)[0].T * math.sqrt(size / d)
        return jax.vmap(unravel)(columns.astype(flat.dtype))

    def _given(self, origin: Solution) -> Solution:
        """Returns the basis in the types of ``x0``, checked."""
        expected = jax.tree.map(jnp.shape, origin)
        came = jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], self.basis)
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.basis)}
        if came != expected or len(sizes) != 1:
            raise ValueError(
                "basis must be like x0 with a leading axis of one length, "
                f"{expected}; got {jax.tree.map(jnp.shape, self.basis)}"
            )
        return jax.tree.map(lambda a, x: jnp.asarray(a, x.dtype), self.basis, origin)

    def _lifted(self, state: SubspaceState, z: jax.Array) -> Solution:
        """Returns ``x0 + A z``."""
        return jax.tree.map(
            lambda x, a: (x + jnp.tensordot(z.astype(a.dtype), a, 1)).astype(x.dtype),
            state.origin,
            state.basis,
        )

    def decode(self, state: SubspaceState, member: Member) -> Solution:
        """Decodes z, and returns ``x0 + A z``."""
        return self._lifted(state, lazy.materialise(super().decode(state, member)))

    def decode_group(self, state: SubspaceState, members: Member) -> Solution:
        """Returns ``x0 + A z`` of a group."""
        group = super().decode_group(state, members)
        return jax.vmap(lambda z: self._lifted(state, z))(group)

    def encode(self, state: SubspaceState, solution: Solution) -> Member:
        """Encodes the z whose solution is nearest, ``argmin |x0 + A z - x|``."""
        away, _ = ravel_pytree(
            jax.tree.map(lambda x, x0: x - x0, solution, state.origin)
        )
        columns = jax.vmap(lambda column: ravel_pytree(column)[0])(state.basis)
        z = jnp.linalg.lstsq(columns.T, away.astype(columns.dtype))[0]
        return super().encode(state, z)

    def tell(
        self, state: SubspaceState, population: Population, evaluation: Evaluation
    ) -> tuple[SubspaceState, Info]:
        """Tells the inner method; its diagnostics are those of z."""
        inner, info = self.inner.tell(state.inner, population, evaluation)
        return state._replace(step=state.step + 1, inner=inner), info

    def recommend(self, state: SubspaceState) -> Solution:
        """Returns ``x0 + A z`` of the inner method's answer."""
        return self._lifted(state, super().recommend(state))

    def standard_deviations(self, state: SubspaceState) -> Solution | None:
        """Returns those of x, ``sqrt(sum_j (A_ij s_j)^2)``, for independent z."""
        s = super().standard_deviations(state)
        if s is None:
            return None
        return jax.tree.map(
            lambda a: jnp.sqrt(jnp.tensordot(s.astype(a.dtype) ** 2, a**2, 1)),
            state.basis,
        )

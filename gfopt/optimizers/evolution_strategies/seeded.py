"""Populations of seeds, shared by the strategies that use a family of noise.

A member is a seed, a sign and a scale, and stands for ``mean + sign * scale * z``,
usually in antithetic pairs, ``sign = +1, -1`` on one ``z``. The sums over the
population that an update needs come in two forms, equal up to the order of summation:

* redrawn: ``z`` is made from its seed wherever it is needed, in blocks that stay in
  cache, and no population is ever stored;
* cached: a member carries its ``z``, drawn once. Faster where the population is small.

The noise family decides, as in ``gaussian(cached=True)``; by default the size does.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import noise, threefry
from gfopt.protocol import Method
from gfopt.types import Chain, Key, Member, Population, PyTree, Solution, State


class ScaledSeed(NamedTuple):
    """A seed ``uint32[]`` and the scale of its noise."""

    seed: jax.Array
    scale: jax.Array


class SignedSeed(NamedTuple):
    """How to make one candidate.

    Attributes:
        seed: of the noise, ``uint32[]``.
        sign: 1 or -1.
        scale: of the noise: sigma, or a radius eps.
        z: the noise itself where it is cached, a tree like the solution; else ``()``.
    """

    seed: jax.Array
    sign: jax.Array
    scale: jax.Array
    z: PyTree = ()


def chain_of_seed(state: State, member: SignedSeed) -> Chain:
    """Returns a signed seed as noise on a base."""
    scale = np.asarray(member.sign * member.scale)
    return Chain(np.asarray(member.seed)[None], scale[None])


class Seeded(Method):
    """``ask``, ``decode`` and the sums of a method whose members are signed seeds.

    The method has the fields ``noise``, ``population_size``, ``sigma`` and perhaps
    ``antithetic``, and a state with a ``mean``.
    """

    noise: Any
    antithetic: bool = True
    population_size: Any
    sigma: schedules.Hyperparameter

    @property
    def pair_size(self) -> int:
        """Rows that have one seed: an antithetic pair."""
        return 2 if self.antithetic else 1

    @property
    def group_size(self) -> int:
        """Rows that are decoded together: a pair, with one draw of dense noise."""
        return 1 if self.noise.is_lazy else self.pair_size

    def _size(self, solution: Solution) -> int:
        """Returns the population size for such a solution."""
        return self.population_size

    def _sigma(self, state: State) -> schedules.Number:
        """Returns the scale of this step's members."""
        return schedules.at("sigma", self.sigma, state.step)

    def _spread(self, state: State) -> PyTree:
        """Returns what multiplies the scale: one number, or a tree like the mean."""
        return 1.0

    def _is_cached(self, solution: Solution) -> bool:
        return self.noise.is_cached(self._size(solution), solution)

    def noise_form(self, solution: Solution) -> str:
        """Says whether members carry their noise or redraw it from their seeds."""
        if self._is_cached(solution):
            size, dimension = self._size(solution), trees.num_parameters(solution)
            return f"cached, {size} x {dimension} numbers"
        return "drawn again from seeds"

    def ask(self, key: Key, state: State) -> Population:
        """Draws ``P / 2`` seeds with both signs, or ``P`` seeds."""
        pairs = self._size(state.mean) // self.pair_size
        return self._population(state, threefry.seeds(key, pairs))

    def _population(self, state: State, seeds: jax.Array) -> Population:
        """Returns the members of these seeds, each with its signs."""
        group, size = self.pair_size, self.pair_size * seeds.shape[0]
        signs = jnp.tile(jnp.array([1.0, -1.0][:group], jnp.float32), seeds.shape[0])
        sigma = jnp.asarray(self._sigma(state), trees.wide_dtype(state.mean))
        sigma = jnp.broadcast_to(threefry.round_significant(sigma), size)
        z: PyTree = ()
        if self._is_cached(state.mean):
            draw = partial(self.noise.sample, state.mean, kept=True)
            z = jax.vmap(draw)(seeds)
            z = jax.tree.map(lambda leaf: jnp.repeat(leaf, group, axis=0), z)
        members = SignedSeed(jnp.repeat(seeds, group), signs, sigma, z)
        return Population(members, jnp.ones(size, bool))

    def decode(self, state: State, member: Member) -> Solution:
        """Returns ``mean + sign * sigma * z``."""
        factor = member.sign * member.scale
        scale = jax.tree.map(lambda spread: factor * spread, self._spread(state))
        if _has_noise(member):
            return noise.add_scaled(state.mean, member.z, scale)
        return self.noise.add(state.mean, member.seed, scale)

    def decode_group(self, state: State, members: Member) -> PyTree:
        """Decodes a pair ``[2, ...]`` with one draw of its noise."""
        factors = members.sign * members.scale
        scales = jax.tree.map(
            lambda spread: jnp.multiply.outer(factors, spread), self._spread(state)
        )
        if _has_noise(members):
            z = jax.tree.map(lambda leaf: leaf[0], members.z)
            return jax.vmap(lambda s: noise.add_scaled(state.mean, z, s))(scales)
        return self.noise.add_each(state.mean, members.seed[0], scales)

    def _per_draw(self, weights: jax.Array) -> jax.Array:
        """Sums the weights of rows that share a draw: ``[P]`` to ``[P / 2]``."""
        return weights.reshape(-1, self.pair_size).sum(axis=1)

    def _add_noise(self, tree: PyTree, members: Member, weights: jax.Array) -> PyTree:
        """Returns ``tree + sum_p weights[p] sign[p] z_p``."""
        weights = self._per_draw(weights * members.sign)
        if _has_noise(members):
            return _add_held(tree, members.z, weights, 1)
        return self.noise.add_weighted(tree, members.seed[:: self.pair_size], weights)

    def _moments(
        self, like: PyTree, members: Member, weights: jax.Array, squares: jax.Array
    ) -> tuple[PyTree, PyTree | None]:
        """Returns ``sum_p weights[p] sign[p] z_p`` and ``sum_p squares[p] z_p**2``.

        The second one is None for signs, whose squares are all 1.
        """
        if self.noise.kind != "gaussian":
            zeros = noise.zeros_after(like, weights)
            return self._add_noise(zeros, members, weights), None
        if _has_noise(members):
            zeros = noise.zeros_after(like, weights)
            first = self._add_noise(zeros, members, weights)
            return first, _add_held(zeros, members.z, self._per_draw(squares), 2)
        weights = self._per_draw(weights * members.sign)
        seeds = members.seed[:: self.pair_size]
        return self.noise.weighted_moments(
            like, seeds, weights, self._per_draw(squares)
        )


def check_deviations(optimizer: Any) -> None:
    """Checks ``noise`` of a method with ``std_learning_rate``, which signs lack.

    Raises:
        TypeError: if it is not a noise family.
        ValueError: if standard deviations would be learned from signs.
    """
    checks.instance("noise", optimizer.noise, noise.Noise, "a gfopt noise family")
    kind, rate = optimizer.noise.kind, optimizer.std_learning_rate
    if kind != "gaussian" and rate is not None:
        raise ValueError(
            f"std_learning_rate must be None with {kind} noise: the gradient of a "
            "standard deviation is a sum of z**2 - 1, which is 0 for signs, so that "
            f"all of them stay at sigma; got {checks.shown(rate)}"
        )


def _has_noise(members: SignedSeed) -> bool:
    return bool(jax.tree.leaves(members.z))


def _add_held(tree: PyTree, z: PyTree, weights: jax.Array, power: int) -> PyTree:
    """Returns ``tree + sum_i weights[i] z_i ** power`` over the draws in ``z``.

    ``z`` has each draw once for every row of its group. Weights of 0 for all but the
    first are cheaper than selecting the first ones.
    """

    def add_leaf(leaf: jax.Array, z: jax.Array) -> jax.Array:
        group = z.shape[0] // weights.shape[0]
        rows = jnp.zeros((weights.shape[0], group), weights.dtype)
        rows = rows.at[:, 0].set(weights).reshape(-1)
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        z = z.astype(wide)
        total = jnp.tensordot(rows.astype(wide), z if power == 1 else z * z, 1)
        return (leaf + total).astype(leaf.dtype)

    return jax.tree.map(add_leaf, tree, z)

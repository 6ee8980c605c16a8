"""Vocabularies, starting sequences and draws of tokens, for all discrete searches.

A vocabulary is the number of tokens ``V``, for all ids from 0 to ``V - 1``, or an array
``int32[n]`` of the ids that are allowed. The first is configuration, the second a leaf:
one program serves all pruned vocabularies of one size.
"""

from __future__ import annotations

import numbers
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, jaxprs
from gfopt.types import PyTree, Solution


@jax.tree_util.register_pytree_node_class
class AllTokens(int):
    """The ids from 0 to ``V - 1``: an int that is configuration, not a leaf."""

    def tree_flatten(self) -> tuple[tuple[()], int]:
        """Flattens into no leaves."""
        return (), int(self)

    @classmethod
    def tree_unflatten(cls, size: int, leaves: tuple[()]) -> AllTokens:
        """Rebuilds the number."""
        del leaves
        return cls(size)


Vocabulary: TypeAlias = Any  # AllTokens, or int32[n], ascending

_EXPECTED = "the number of tokens, 1 or above, or a vector of token ids"


def vocabulary(value: PyTree, name: str = "vocabulary") -> Vocabulary:
    """Returns a vocabulary as a method stores it: ids ascending, each once.

    Raises:
        TypeError: for what is neither a number nor an array of integers.
        ValueError: for one without tokens, or with a negative id.

    Example:
        >>> vocabulary(np.array([7, 3, 7]))
        Array([3, 7], dtype=int32)
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"{name} must be {_EXPECTED}; got {checks.shown(value)}")
        return AllTokens(value)
    if jaxprs.is_tracer(value) or type(value) is object:
        return value  # not known yet: JAX unflattens with such placeholders
    is_array = isinstance(value, np.ndarray | jax.Array | list | tuple)
    array = np.asarray(value) if is_array else np.zeros(0)
    if not is_array or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be {_EXPECTED}; got {checks.shown(value)}")
    if array.size == 0 or array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValueError(f"{name} must be {_EXPECTED}; got {checks.shown(value)}")
    # an array of vocabularies is for vmap: each keeps its size
    array = np.unique(array) if array.ndim == 1 else np.sort(array, axis=-1)
    return jnp.asarray(array, jnp.int32)


def size_of(vocabulary: Vocabulary) -> int:
    """Returns the number of tokens in a vocabulary."""
    if isinstance(vocabulary, int):
        return int(vocabulary)
    if jnp.ndim(vocabulary) != 1:
        raise ValueError(
            f"vocabulary must be {_EXPECTED}; got shape {jnp.shape(vocabulary)} "
            "(use jax.vmap for several)"
        )
    return int(vocabulary.shape[0])


def token_at(vocabulary: Vocabulary, index: jax.Array) -> jax.Array:
    """Returns the ids of the tokens with these numbers in the vocabulary."""
    return index if isinstance(vocabulary, int) else vocabulary[index]


def index_of(vocabulary: Vocabulary, tokens: jax.Array) -> jax.Array:
    """Returns the tokens' numbers in the vocabulary; its size for one not in it."""
    size = size_of(vocabulary)
    if isinstance(vocabulary, int):
        return jnp.where((tokens >= 0) & (tokens < size), tokens, size)
    place = jnp.minimum(jnp.searchsorted(vocabulary, tokens), size - 1)
    return jnp.where(vocabulary[place] == tokens, place, size).astype(jnp.int32)


def drawn(
    vocabulary: Vocabulary, uniform: jax.Array, counts: np.ndarray | None = None
) -> jax.Array:
    """Turns numbers in [0, 1) into tokens, all equally likely.

    Args:
        vocabulary: of the tokens.
        uniform: ``float[..., L]``.
        counts: how many are allowed at each position, ``int32[L]``; None for all.
    """
    allowed = size_of(vocabulary) if counts is None else counts
    return token_at(vocabulary, _below(allowed, uniform))


def changed(
    vocabulary: Vocabulary,
    tokens: jax.Array,
    uniform: jax.Array,
    counts: np.ndarray | None = None,
) -> jax.Array:
    """Turns numbers in [0, 1) into tokens other than these, all equally likely.

    Where only one token is allowed, it is that one. For the arguments see ``drawn``.
    """
    allowed = np.asarray(size_of(vocabulary) if counts is None else counts)
    index = _below(np.maximum(allowed - 1, 1), uniform)
    skips = (index >= index_of(vocabulary, tokens)) & (allowed > 1)
    return token_at(vocabulary, index + skips)


def _below(count: int | np.ndarray, uniform: jax.Array) -> jax.Array:
    # the product may round up to `count` itself
    index = jnp.floor(uniform * np.float32(count)).astype(jnp.int32)
    return jnp.minimum(index, count - 1)


def choices(value: PyTree, of: PyTree) -> tuple[tuple[int, ...] | None, Vocabulary]:
    """Returns the choices and the vocabulary of a method as it stores them.

    Args:
        value: how many tokens are allowed at each position, the first ones of the
            vocabulary; None for all.
        of: the vocabulary; None for the smallest that has so many.

    Raises:
        TypeError: for what are no integers.
        ValueError: for one below 1.

    Example:
        >>> choices([2, 3], None)
        ((2, 3), 3)
    """
    if value is None:
        return None, vocabulary(of)
    kinds = (tuple, list, np.ndarray)
    checks.instance("choices", value, kinds, "a tuple of integers")
    for count in value:
        checks.integer("choices", count, 1)
    found = tuple(map(int, value))
    return found, vocabulary(max(found, default=1) if of is None else of)


def allowed(
    vocabulary: Vocabulary, choices: tuple[int, ...] | None, length: int
) -> np.ndarray:
    """Returns how many tokens each position may have, ``int32[L]``.

    Raises:
        ValueError: for choices that do not fit the positions or the vocabulary.
    """
    size = size_of(vocabulary)
    if choices is None:
        return np.full(length, size, np.int32)
    if len(choices) != length or max(choices) > size:
        raise ValueError(
            f"choices must have a number for each of the {length} positions, at "
            f"most the {size} of the vocabulary; got {checks.shown(choices)}"
        )
    return np.array(choices, np.int32)


def starting_tokens(solution: Solution) -> jax.Array:
    """Returns the sequence that a method starts from, ``int32[L]``, checked.

    An id of -1 is an empty place.

    Raises:
        TypeError: for what is not one array of integers.
        ValueError: for one without tokens, of another shape, or with an id below -1.

    Example:
        >>> starting_tokens(np.array([3, 1, 4]))
        Array([3, 1, 4], dtype=int32)
    """
    expected = "a vector of token ids, int32[L]"
    is_list = isinstance(solution, list | tuple)
    if is_list and all(isinstance(token, int | np.integer) for token in solution):
        solution = np.asarray(solution, np.int64)
    leaves = jax.tree.leaves(solution)
    if len(leaves) != 1:
        raise ValueError(f"solution must be {expected}; got {checks.shown(solution)}")
    (leaf,) = leaves
    array = leaf if jaxprs.is_tracer(leaf) else np.asarray(leaf)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"solution must be {expected}; got {checks.shown(leaf)}")
    is_known = isinstance(array, np.ndarray)
    if array.ndim != 1 or array.size == 0 or (is_known and array.min() < -1):
        raise ValueError(f"solution must be {expected}; got {checks.shown(leaf)}")
    return jnp.asarray(array, jnp.int32)


def as_subset(vocabulary: Vocabulary, worth: jax.Array, size: int) -> jax.Array:
    """Returns the ``size`` tokens that are worth most, ascending, each once.

    Args:
        vocabulary: at least ``size`` tokens.
        worth: ``float[..., n]``, one number for each of them.
        size: of the subset.
    """
    _, index = jax.lax.top_k(worth, size)
    return token_at(vocabulary, jnp.sort(index, axis=-1).astype(jnp.int32))


def check_subset(vocabulary: Vocabulary, length: int) -> None:
    """Rejects a subset that is larger than its vocabulary."""
    if size_of(vocabulary) < length:
        raise ValueError(
            f"vocabulary must have at least the {length} tokens of a subset; "
            f"got {size_of(vocabulary)}"
        )


def members(vocabulary: Vocabulary, tokens: jax.Array) -> jax.Array:
    """Returns which tokens of the vocabulary are in the sequences, ``bool[..., n]``."""
    index = index_of(vocabulary, tokens)
    return (index[..., None] == jnp.arange(size_of(vocabulary))).any(axis=-2)

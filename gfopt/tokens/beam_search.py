"""Texts that grow side by side, each with its cache: beam search and particles.

A beam's cache is written in place. When texts are chosen, each text that is chosen
stays in its slot; only its further copies move, into the slots of texts that were not.
So a step holds the caches once, and one more while it copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.protocol import Method
from gfopt.tokens.language_model import Cache, LanguageModel
from gfopt.tokens.sequences import END
from gfopt.types import PyTree


class BeamSearch(Method):
    """A method whose candidates continue its texts: its state has ``beams``.

    Attributes:
        num_candidates: continuations of each text.
        num_trials: fresh evaluations of the finalists, rows of their own while the
            state says ``waits``; 0 for none.
    """

    num_candidates: int = 1
    num_trials: int = 0
    is_for_tokens = True


class Beams(NamedTuple):
    """``N`` texts of one length after one prompt.

    Attributes:
        tokens: ``i32[N, L]``, ``-1`` after the end.
        length: of all texts, ``i32[]``.
        logits: of the next token of each, ``[N, V]``.
        cache: of prompt and text, leaves ``[N, ...]``.
        alive: ``bool[N]``; a slot may hold no text.
    """

    tokens: jax.Array
    length: jax.Array
    logits: jax.Array
    cache: Cache
    alive: jax.Array


class Extension(NamedTuple):
    """A candidate: a text and one more token.

    Attributes:
        parent: slot of the text, or place of a finalist, ``i32[]``.
        token: what is appended, ``i32[]``.
        slot: its place among the candidates, those of a parent together, ``i32[]``.
    """

    parent: jax.Array
    token: jax.Array
    slot: jax.Array


def count(holds: jax.Array) -> jax.Array:
    """Counts the True entries of ``bool[...]``, ``i32[]``."""
    return jnp.sum(holds, dtype=jnp.int32)


def rows_of(prompt: ArrayLike, beams: Beams) -> jax.Array:
    """Returns what reading one more token of each text costs, ``i32[]``."""
    prompts = jnp.atleast_2d(jnp.asarray(prompt)).shape[0]
    return prompts * count(beams.alive)


def check_model(model: object) -> None:
    """Rejects a model without ``start`` and ``extend``."""
    for name in ("start", "extend"):
        if type(model) is object:
            return  # a placeholder from tree unflattening
        if not callable(getattr(model, name, None)):
            raise TypeError(
                f"model must be a language model, with {name}; "
                f"got {checks.shown(model)}"
            )


def check_tokens(name: str, tokens: PyTree, dimensions: tuple[int, ...] = (1,)) -> None:
    """Rejects anything but an array of integers with these numbers of dimensions."""
    is_array = hasattr(tokens, "dtype") and hasattr(tokens, "ndim")
    if is_array and (
        not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.ndim not in dimensions
    ):
        wanted = " or ".join(f"{count}" for count in dimensions)
        raise TypeError(
            f"{name} must be an array of token ids with {wanted} dimension(s); "
            f"got {checks.shown(tokens)}"
        )
    if isinstance(tokens, str | bytes | int | float | list | tuple):
        raise TypeError(
            f"{name} must be an array of token ids; got {checks.shown(tokens)}"
        )


def check_proposal(method: Any) -> None:
    """Rejects wrong values of the fields that ``proposal_of`` reads."""
    checks.positive("temperature", method.temperature)
    if method.top_p is not None:
        checks.positive("top_p", method.top_p)
        checks.share("top_p", method.top_p)
    if isinstance(method.vocabulary, int):
        checks.integer("vocabulary", method.vocabulary, 1)
    elif method.vocabulary is not None:
        check_tokens("vocabulary", method.vocabulary, (0, 1))
    if method.forbidden is not None:
        check_tokens("forbidden", method.forbidden)


def proposal_of(method: Any, logits: jax.Array) -> jax.Array:
    """Returns ``log_proposal`` by a method's fields, ``[..., V]``."""
    size = logits.shape[-1]
    allowed = allowed_tokens(size, method.vocabulary, method.forbidden)
    return log_proposal(logits, method.temperature, method.top_p, allowed)


def started(
    model: LanguageModel, prompt: ArrayLike, count: int, max_length: int
) -> Beams:
    """Reads the prompt; the first of ``count`` slots holds the empty text."""
    logits, cache = model.start(jnp.asarray(prompt), max_length)

    def repeated(leaf: jax.Array) -> jax.Array:
        return jnp.broadcast_to(leaf, (count, *leaf.shape))

    return Beams(
        tokens=jnp.full((count, max_length), END, jnp.int32),
        length=jnp.int32(0),
        logits=repeated(logits.astype(jnp.float32)),
        cache=jax.tree.map(repeated, cache),
        alive=jnp.arange(count) < 1,
    )


def allowed_tokens(
    size: int, vocabulary: ArrayLike | None, forbidden: ArrayLike | None
) -> jax.Array | None:
    """Returns which tokens may be drawn, ``bool[V]``, or None for all."""
    allowed = None
    if vocabulary is not None:
        if jnp.ndim(vocabulary) == 0:
            allowed = jnp.arange(size) < vocabulary
        else:
            allowed = jnp.zeros(size, bool).at[vocabulary].set(True)
    if forbidden is not None:
        allowed = jnp.ones(size, bool) if allowed is None else allowed
        allowed = allowed.at[forbidden].set(False)
    return allowed


def log_proposal(
    logits: jax.Array,
    temperature: ArrayLike,
    top_p: ArrayLike | None,
    allowed: jax.Array | None,
) -> jax.Array:
    """Returns the log-probabilities of the next token, ``[..., V]``.

    Args:
        logits: of the model.
        temperature: that they are divided by.
        top_p: only the likeliest tokens that together have this probability are kept;
            None for all.
        allowed: ``bool[V]`` or None.
    """
    scaled = logits / temperature
    if allowed is not None:
        scaled = jnp.where(allowed, scaled, -jnp.inf)
    log_p = jax.nn.log_softmax(scaled, axis=-1)
    if top_p is None:
        return log_p
    falling = -jnp.sort(-log_p, axis=-1)
    before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
    kept = jnp.sum(before < top_p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(falling, jnp.maximum(kept - 1, 0), axis=-1)
    return jax.nn.log_softmax(jnp.where(log_p >= least, log_p, -jnp.inf), axis=-1)


def gumbel_top_k(
    key: jax.Array, log_p: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Draws ``count`` tokens without replacement, in the order of drawing.

    The ``k`` largest of ``log p + Gumbel`` are distributed as ``k`` draws in turn,
    each from what is left: ``P(a, b) = p_a p_b / (1 - p_a)``.

    Args:
        key: of the draw.
        log_p: ``[V]``; minus infinity for what can't be drawn.
        count: of tokens, ``k``.

    Returns:
        Tokens ``i32[k]`` and whether each could be drawn, ``bool[k]``.

    Source: Kool, van Hoof, Welling (2019), arXiv 1903.06059, section 2.
    """
    noise = jax.random.gumbel(key, log_p.shape, log_p.dtype)
    size = min(count, log_p.shape[-1])
    found, tokens = lax.top_k(log_p + noise, size)
    pad = (0, count - size)
    valid = jnp.pad(jnp.isfinite(found), pad)
    return jnp.pad(tokens, pad), valid


def slots(parents: jax.Array, alive: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives each chosen text a slot: a text that is chosen stays in its own.

    Args:
        parents: slot of each chosen text, ``i32[N]``.
        alive: ``bool[N]``; False where nothing was chosen.

    Returns:
        ``order``, the choice that stands in each slot, and ``source``, the slot that it
        is copied from, its own where it stays.
    """
    count = parents.shape[0]
    places = jnp.arange(count)
    same = (parents[:, None] == parents) & alive
    first = alive & ~jnp.any(same & (places < places[:, None]), axis=1)
    taken = jnp.zeros(count, bool).at[jnp.where(first, parents, count)].set(True)
    free = jnp.argsort(taken)  # stable: the free slots in their order, then the others
    place = jnp.where(first, parents, free[jnp.cumsum(~first) - 1])
    order = jnp.zeros(count, jnp.int32).at[place].set(places.astype(jnp.int32))
    return order, jnp.where(alive[order], parents[order], places)


def moved(tree: PyTree, source: jax.Array) -> PyTree:
    """Copies slots in place; slots that are copied from do not change."""

    def copied(slot: jax.Array, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.at[slot].set(leaf[source[slot]]), tree)

    return lax.fori_loop(0, source.shape[0], copied, tree)


def extended(beams: Beams, member: Extension) -> jax.Array:
    """Returns a text with its new token, ``i32[L]``."""
    return beams.tokens[member.parent].at[beams.length].set(member.token)


def moved_beams(beams: Beams, source: jax.Array) -> Beams:
    """Copies texts and caches in place, but not the logits."""
    cache, tokens = moved((beams.cache, beams.tokens), source)
    return beams._replace(cache=cache, tokens=tokens)


def appended(
    model: LanguageModel,
    beams: Beams,
    tokens: jax.Array,
    grows: jax.Array,
    most_drawn: int = 0,
    draw: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> tuple[Beams, jax.Array]:
    """Appends the chosen tokens, and some that are drawn after them.

    The last tokens are not read: nothing follows them.

    Args:
        model: a language model.
        beams: the texts.
        tokens: what each is given, ``i32[N]``.
        grows: ``bool[]``; False changes nothing.
        most_drawn: tokens that are drawn after it at most; never the last.
        draw: ``(number, logits [N, V]) -> i32[N]`` draws them.

    Returns:
        The texts, and how many tokens of each were read.
    """
    max_length = beams.tokens.shape[1]
    length = jnp.minimum(beams.length + 1, max_length)
    left = max_length - length
    drawn = jnp.clip(left - 1, 0, most_drawn)
    num_read = jnp.where(grows & (left > 0), 1 + drawn, 0)
    is_full = grows & (left == 0)
    full = beams.tokens.at[:, -1].set(tokens)
    unread = beams._replace(
        tokens=jnp.where(is_full, full, beams.tokens),
        length=jnp.where(is_full, max_length, beams.length),
    )
    draws = (lambda number, logits: tokens) if draw is None else draw
    return grown(model, unread, tokens, num_read, draws), num_read


def grown(
    model: LanguageModel,
    beams: Beams,
    first: jax.Array,
    count: jax.Array,
    draw: Callable[[jax.Array, jax.Array], jax.Array],
) -> Beams:
    """Appends tokens to all texts; the last one's logits are those of the next token.

    Args:
        model: a language model.
        beams: the texts.
        first: the token that each is given, ``i32[N]``.
        count: tokens that are appended and read, ``i32[]``; 0 reads none.
        draw: ``(number, logits [N, V]) -> i32[N]``, the tokens after the first.
    """

    def body(number: jax.Array, beams: Beams) -> Beams:
        tokens = lax.cond(
            number == 0, lambda: first, lambda: draw(number, beams.logits)
        )
        logits, cache = jax.vmap(lambda one, token: model.extend(one, token[None]))(
            beams.cache, tokens
        )
        return beams._replace(
            tokens=beams.tokens.at[:, beams.length].set(tokens),
            length=beams.length + 1,
            logits=logits[:, 0].astype(jnp.float32),
            cache=cache,
        )

    return lax.fori_loop(0, count, body, beams)

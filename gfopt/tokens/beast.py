"""BEAST: a beam search whose candidates are drawn from a language model.

Beams are texts after a prompt. Of each, ``k2`` continuations by one token are drawn
without replacement from the model's own distribution, so that what is tried stays
readable; the best ``k1`` of the ``k1 k2`` candidates are the next beams:

    candidates = {a + (v): a in beams, v ~ q(. | prompt, a) without replacement}
    beams      = the k1 candidates with the lowest fitness

The first tokens are drawn, ``k1`` distinct ones, and not evaluated. The best of all
lengths is the answer. No gradient is needed, and no sweep over the vocabulary.

``tell`` reads the survivors' last tokens, one row of one token each, and keeps the next
logits; ``ask`` only draws. A solution is ``i32[L]`` with ``-1`` after its end, so that
one program serves all lengths. What ``tell`` draws (``ngram``), and the first tokens,
come from the state's seed.

Source: Sadasivan, Saha, Sriramanan, Kattakinda, Chegini, Feizi (2024), "Fast
adversarial attacks on language models in one GPU minute", ICML, arXiv 2402.15570,
algorithm 1. Deviations: where fewer tokens than candidates are left (``top_p``, a small
vocabulary) the missing rows are inactive; a step without a valid value is repeated;
finalists may be evaluated again where the score is random.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core import trees
from gfopt.noise import threefry
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet, beam_search
from gfopt.tokens.beam_search import Beams, BeamSearch, Extension
from gfopt.tokens.language_model import LanguageModel
from gfopt.tokens.token_counts import tokens_used
from gfopt.types import Evaluation, Key, Member, Population, Solution


class BeastState(NamedTuple):
    """The beams and the best so far.

    Attributes:
        step: ``i32[]``.
        beams: texts, their next tokens' logits and their caches.
        fitness: of the beams, ``float[k1]``; infinity for the first tokens.
        best: the best texts of all lengths, ``i32[F, L]``, the best first.
        best_fitness: ``float[F]``.
        waits: ``bool[]``, whether finalists wait for their second evaluation.
        seed: ``uint32[]``, of what is drawn outside of ``ask``.
        num_proposals: ``i32[]``, rows that the model gave logits for.
        num_tokens: ``i32[]``, tokens read by proposals and by scores that count them.
    """

    step: jax.Array
    beams: Beams
    fitness: jax.Array
    best: jax.Array
    best_fitness: jax.Array
    waits: jax.Array
    seed: jax.Array
    num_proposals: jax.Array
    num_tokens: jax.Array


class BeastInfo(NamedTuple):
    """Diagnostics of one step."""

    best_fitness: jax.Array
    length: jax.Array
    num_candidates: jax.Array
    num_valid: jax.Array
    num_proposals: jax.Array
    num_tokens: jax.Array


@pytree
class Beast(BeamSearch):
    """Beam search over texts that a language model finds likely.

    Args:
        model: what proposes tokens, a ``LanguageModel``; its weights are leaves.
        prompt: the text that is continued, ``i32[n]``, or several, ``i32[m, n]``, for
            ``SeveralPrompts``; ``-1`` after the end.
        beam_width: beams, ``k1``.
        num_candidates: continuations of each beam, ``k2``; fewer are more readable.
        temperature: of the proposal.
        top_p: draw only from the likeliest tokens with this probability together.
        vocabulary: ids that may be drawn, ``i32[n]``; an int for those below it.
        forbidden: ids that may not be drawn, ``i32[m]``.
        scores_first: evaluate ``k1 k2`` first tokens instead of drawing ``k1``.
        ngram: choose only every n-th token by its fitness; those between are drawn,
            which is more readable and takes fewer evaluations.
        num_finalists: the best texts that are kept.
        num_trials: fresh evaluations of each of them at the end, whose mean decides; 0
            for scores without noise.
        max_tokens: stop when proposals and scores have read so many tokens; see
            ``token_counting``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import Beast, FunctionModel, Targeted, length_of
        >>> bigrams = 3.0 * jnp.eye(9, k=1)
        >>> model = FunctionModel(lambda table, tokens: table[tokens], bigrams)
        >>> score = Targeted(model, prompt=jnp.array([2]), target=jnp.array([8]))
        >>> beast = Beast(model, jnp.array([2]), beam_width=4, num_candidates=4)
        >>> empty = jnp.full(5, -1)
        >>> result = gfopt.run(beast, score, empty, key=jax.random.key(0),
        ...                    generations=4)
        >>> text = result.recommended
        >>> text[length_of(text) - 1]  # what 8 is likely after
        Array(7, dtype=int32)
    """

    model: LanguageModel
    prompt: ArrayLike
    beam_width: int = static(default=15)
    num_candidates: int = static(default=15)
    temperature: ArrayLike = 1.0
    top_p: ArrayLike | None = None
    vocabulary: ArrayLike | None = None
    forbidden: ArrayLike | None = None
    scores_first: bool = static(default=False)
    ngram: int = static(default=1)
    num_finalists: int = static(default=1)
    num_trials: int = static(default=0)
    max_tokens: int | None = static(default=None)

    def __post_init__(self) -> None:
        beam_search.check_model(self.model)
        beam_search.check_tokens("prompt", self.prompt, (1, 2))
        for name in ("beam_width", "num_candidates", "ngram", "num_finalists"):
            checks.integer(name, getattr(self, name), 1)
        beam_search.check_proposal(self)
        checks.instance("scores_first", self.scores_first, bool, "True or False")
        checks.integer("num_trials", self.num_trials, 0)
        if self.max_tokens is not None:
            checks.integer("max_tokens", self.max_tokens, 1)

    def init(self, key: Key, solution: Solution) -> BeastState:
        """Reads the prompt and draws the first tokens; L is the solution's length."""
        start = alphabet.starting_tokens(solution)
        max_length = start.shape[0]
        beams = beam_search.started(
            self.model, self.prompt, self.beam_width, max_length
        )
        num_read = beam_search.count(jnp.asarray(self.prompt) >= 0)
        if not self.scores_first:
            first, alive = beam_search.gumbel_top_k(
                key, beam_search.proposal_of(self, beams.logits[0]), self.beam_width
            )
            beams = beam_search.grown(
                self.model, beams, first, jnp.int32(1), lambda number, logits: first
            )._replace(alive=alive)
            num_read += beam_search.rows_of(self.prompt, beams)
        return BeastState(
            step=jnp.int32(0),
            beams=beams,
            fitness=jnp.full(self.beam_width, jnp.inf, jnp.float32),
            best=jnp.broadcast_to(start, (self.num_finalists, max_length)),
            best_fitness=jnp.full(self.num_finalists, jnp.inf, jnp.float32),
            waits=jnp.zeros((), bool),
            seed=threefry.seeds(jax.random.fold_in(key, 1), 1)[0],
            num_proposals=jnp.where(
                self.scores_first, 1, 1 + beam_search.count(beams.alive)
            ),
            num_tokens=num_read,
        )

    def ask(self, key: Key, state: BeastState) -> Population:
        """Draws the candidates, or repeats the finalists."""
        k1, k2 = self.beam_width, self.num_candidates
        log_p = beam_search.proposal_of(self, state.beams.logits)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(k1))
        draw = partial(beam_search.gumbel_top_k, count=k2)
        tokens, valid = jax.vmap(draw)(keys, log_p)
        tokens, valid = tokens.ravel(), (valid & state.beams.alive[:, None]).ravel()
        slot = jnp.arange(k1 * k2)
        parent = slot // k2
        if self.scores_first:  # the empty text has k1 k2 children
            root = beam_search.gumbel_top_k(keys[0], log_p[0], k1 * k2)
            is_root = state.beams.length == 0
            tokens = jnp.where(is_root, root[0], tokens)
            valid = jnp.where(is_root, root[1], valid)
            parent = jnp.where(is_root, 0, parent)
        valid &= state.beams.length < state.beams.tokens.shape[1]
        order = jnp.argsort(~valid)  # stable: active rows stand first
        members = Extension(parent, tokens, slot)
        members = jax.tree.map(lambda leaf: leaf[order].astype(jnp.int32), members)
        population = Population(members, valid[order])
        if not self.num_trials:
            return population
        again = jnp.repeat(jnp.arange(self.num_finalists), self.num_trials)
        rows = max(k1 * k2, again.size)
        place = jnp.arange(rows)
        finalist = again[jnp.minimum(place, again.size - 1)]
        is_known = jnp.isfinite(state.best_fitness[finalist])
        second = Population(
            Extension(finalist, jnp.full(rows, -1), place),
            (place < again.size) & is_known,
        )
        first = jax.tree.map(
            lambda leaf: jnp.pad(leaf, (0, rows - leaf.shape[0])), population
        )
        first = first._replace(
            members=first.members._replace(
                slot=jnp.where(place < k1 * k2, first.members.slot, place)
            )
        )
        return trees.select(state.waits, second, first)

    def decode(self, state: BeastState, member: Member) -> Solution:
        """Returns the beam with its token, or the finalist."""
        beams = state.beams
        row = beam_search.extended(beams, member)
        if not self.num_trials:
            return row
        best = state.best[jnp.minimum(member.parent, self.num_finalists - 1)]
        return jnp.where(state.waits, best, row)

    def tell(
        self, state: BeastState, population: Population, evaluation: Evaluation
    ) -> tuple[BeastState, BeastInfo]:
        """Chooses the beams and reads their last tokens."""
        beams, members = state.beams, population.members
        max_length = beams.tokens.shape[1]
        fitness = jnp.where(evaluation.valid, evaluation.fitness, jnp.inf)
        fitness = fitness.astype(state.fitness.dtype)
        read = jnp.sum(jnp.where(population.active, tokens_used(evaluation), 0))
        best, best_fitness = self._best(state, population, fitness)
        is_last = state.waits
        found, chosen = lax.top_k(-fitness, self.beam_width)
        alive = jnp.isfinite(found)
        grows = ~is_last & jnp.any(alive)
        # without a valid value nothing changes: the beams are copied onto themselves
        order, source = beam_search.slots(members.parent[chosen], alive & grows)
        chosen = chosen[order]
        beams = beam_search.moved_beams(beams, source)
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)

        def draw(number: jax.Array, logits: jax.Array) -> jax.Array:
            keys = jax.random.split(jax.random.fold_in(key, number), self.beam_width)
            log_p = beam_search.proposal_of(self, logits)
            return jax.vmap(jax.random.categorical)(keys, log_p).astype(jnp.int32)

        # tokens drawn in between leave the last one to be chosen
        beams, count = beam_search.appended(
            self.model,
            beams,
            members.token[chosen],
            grows,
            self.ngram - 1,
            draw if self.ngram > 1 else None,
        )
        alive = jnp.where(grows, alive[order], beams.alive)
        beams = beams._replace(alive=alive)
        is_full = grows & (beams.length == max_length)
        new = state._replace(
            step=state.step + 1,
            beams=beams,
            fitness=jnp.where(grows, fitness[chosen], state.fitness),
            best=best,
            best_fitness=best_fitness,
            waits=is_full & (self.num_trials > 0),
            num_proposals=state.num_proposals + count * beam_search.count(alive),
            num_tokens=state.num_tokens
            + read.astype(jnp.int32)
            + count * beam_search.rows_of(self.prompt, beams),
        )
        info = BeastInfo(
            best_fitness[0],
            beams.length,
            beam_search.count(population.active),
            beam_search.count(evaluation.valid),
            new.num_proposals,
            new.num_tokens,
        )
        return new, info

    def recommend(self, state: BeastState) -> Solution:
        """Returns the best text of all lengths."""
        return state.best[0]

    def stop(self, state: BeastState) -> dict[str, jax.Array]:
        """Returns ``max_length``: texts are full; ``max_tokens``: so many were read."""
        is_full = state.beams.length == state.beams.tokens.shape[1]
        found = {"max_length": is_full & ~state.waits}
        if self.max_tokens is not None:
            found["max_tokens"] = state.num_tokens >= self.max_tokens
        return found

    def _best(
        self, state: BeastState, population: Population, fitness: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the best texts so far, or the finalists by their fresh mean."""
        solutions = jax.vmap(lambda member: self.decode(state, member))(
            population.members
        )
        rows = jnp.concatenate([state.best, solutions])
        scores = jnp.concatenate([state.best_fitness, fitness])
        found, order = lax.top_k(-scores, self.num_finalists)
        best, best_fitness = rows[order], -found
        if not self.num_trials:
            return best, best_fitness
        # the mean of the fresh values alone: the first value was selected for
        shape = self.num_finalists, self.num_trials
        again = fitness[: shape[0] * shape[1]].reshape(shape)
        valid = jnp.isfinite(again)
        total = jnp.sum(jnp.where(valid, again, 0), axis=1)
        mean = jnp.where(valid.any(axis=1), total / valid.sum(axis=1), jnp.inf)
        order = jnp.argsort(mean)
        known = jnp.isfinite(mean[order[0]])
        fresh = (
            jnp.where(known, state.best[order], state.best),
            jnp.where(known, mean[order], state.best_fitness),
        )
        return trees.select(state.waits, fresh, (best, best_fitness))

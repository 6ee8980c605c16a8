"""A folder of Hugging Face's files against a plain loop over heads and halves."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.problems import load_safetensors

HEADS, SHARED, SIZE, INNER, VOCABULARY, LAYERS, BASE = 4, 2, 6, 7, 11, 2, 50.0
WIDTH = HEADS * SIZE
CONFIG = {
    "model_type": "llama",
    "tie_word_embeddings": True,
    "num_attention_heads": HEADS,
    "num_key_value_heads": SHARED,
    "num_hidden_layers": LAYERS,
    "rope_theta": BASE,
    "rms_norm_eps": 1e-5,
}


def tensors():
    draw = np.random.default_rng(0)
    shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}
    for layer in range(LAYERS):
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (SHARED * SIZE, WIDTH),
            "self_attn.v_proj": (SHARED * SIZE, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (INNER, WIDTH),
            "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
        }.items():
            shapes[f"model.layers.{layer}.{name}"] = shape
    return {
        f"{name}.weight": (draw.normal(size=shape) * 0.3).astype(np.float32)
        for name, shape in shapes.items()
    }


def looped_logits(w, text):
    """Head by head, the halves of each turned as the files mean it, in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}

    def norm(x, name):
        return x / np.sqrt(np.mean(x**2) + 1e-5) * w[f"model.{name}.weight"]

    def turned(x, t):
        angle = t * BASE ** (-2 * np.arange(SIZE // 2) / SIZE)
        a, b = x[: SIZE // 2], x[SIZE // 2 :]
        return np.concatenate(
            [
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
            ]
        )

    h = [w["model.embed_tokens.weight"][token] for token in text]
    for layer in range(LAYERS):

        def linear(name, x, layer=layer):
            return w[f"model.layers.{layer}.{name}.weight"] @ x

        n = [norm(x, f"layers.{layer}.input_layernorm") for x in h]
        new = []
        for t, x in enumerate(h):
            heads = []
            for head in range(HEADS):
                mine = slice(head * SIZE, (head + 1) * SIZE)
                group = head // (HEADS // SHARED)
                kept = slice(group * SIZE, (group + 1) * SIZE)
                query = turned(linear("self_attn.q_proj", n[t])[mine], t)
                scores = np.array(
                    [
                        query @ turned(linear("self_attn.k_proj", n[s])[kept], s)
                        for s in range(t + 1)
                    ]
                ) / np.sqrt(SIZE)
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
                values = [linear("self_attn.v_proj", n[s])[kept] for s in range(t + 1)]
                heads.append(shares @ np.array(values))
            new.append(x + linear("self_attn.o_proj", np.concatenate(heads)))
        h = []
        for x in new:
            m = norm(x, f"layers.{layer}.post_attention_layernorm")
            gate = linear("mlp.gate_proj", m)
            inner = gate / (1 + np.exp(-gate)) * linear("mlp.up_proj", m)
            h.append(x + linear("mlp.down_proj", inner))
    return np.array([w["model.embed_tokens.weight"] @ norm(x, "norm") for x in h])


@pytest.fixture
def folder(tmp_path):
    numpy_files = pytest.importorskip(
        "safetensors.numpy", reason="pip install 'gfopt[lm]'"
    )
    given = tensors()
    names = sorted(given)
    for number, part in enumerate((names[:5], names[5:])):  # files come in parts
        path = tmp_path / f"model-{number}.safetensors"
        numpy_files.save_file({name: given[name] for name in part}, path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_logits_are_those_of_the_files(folder):
    found = load_safetensors(folder)
    assert found.tokenizer is None
    text = [3, 1, 4, 1, 5, 9]
    expected = looped_logits(tensors(), text)
    logits = jax.jit(found.model.logits)(found.weights, np.array([text]))[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    model = gfopt.CachedModel(found.model, found.weights)
    first, cache = model.start(jnp.array(text[:4]), 2)
    rest, _ = model.extend(cache, jnp.array(text[4:]))
    np.testing.assert_allclose(first, expected[3], atol=1e-4)
    np.testing.assert_allclose(rest, expected[4:], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "mamba"}, "a tied llama model; got one of type 'mamba'"),
        ({"tie_word_embeddings": False}, "got one with an untied head"),
        ({"rope_scaling": {"factor": 2}}, "without rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "without rope_scaling.*llama3"),
        ({"mlp_bias": True}, "without mlp_bias"),
    ],
)
def test_other_models_are_refused(folder, change, match):
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ValueError, match=match):
        load_safetensors(folder)


def test_what_is_missing_is_named(folder, monkeypatch, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="folder must hold the weights"):
        load_safetensors(empty)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="gfopt\\[lm\\]"):
        load_safetensors(folder)

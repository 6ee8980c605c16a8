"""Small models that transformers saved: our logits are those of its forward pass.

``benchmarks/model_files.py`` wrote them (transformers 5.24.0, torch 2.13.0 and, for
quantized ones, compressed-tensors 0.20.1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.problems import load_safetensors

pytest.importorskip("safetensors", reason="pip install 'gfopt[lm]'")

FOLDER = Path(__file__).parent / "model_files"
TOKENS = np.load(FOLDER / "tokens.npy")
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
# float32 in another order of sums, of logits up to 10
TOLERANCE = 5e-5


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str) -> None:
    found = load_safetensors(FOLDER / name)
    with gfopt.lazy.count_materialisations() as made:
        logits = jax.jit(found.model.logits)(found.weights, TOKENS)
    assert made.list == []
    query = found.weights["layers"]["query"]
    assert isinstance(query, gfopt.quantization.Quantized) == name.startswith(
        "compressed"
    )
    expected = np.load(FOLDER / name / "logits.npy")
    assert np.abs(expected).max() > 3
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", [n for n in NAMES if "compressed" not in n])
def test_a_text_read_in_parts_has_the_same_logits(name: str) -> None:
    found = load_safetensors(FOLDER / name)
    expected = np.load(FOLDER / name / "logits.npy")[0]
    model = gfopt.tokens.CachedModel(found.model, found.weights)

    @jax.jit
    def read(tokens: jax.Array) -> Any:
        first, cache = model.start(tokens[:3], 8)
        middle, cache = model.extend(cache, tokens[3:7])
        last, _ = model.extend(cache, tokens[7:])
        return jnp.concatenate([first[None], middle, last])

    read_in_parts = read(jnp.array(TOKENS[0]))
    np.testing.assert_allclose(read_in_parts, expected[2:], atol=TOLERANCE)

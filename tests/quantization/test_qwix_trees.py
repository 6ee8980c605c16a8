"""Trees of Qwix have the same values here, and stay lazy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.lazy.interpreter import interpret

qwix = pytest.importorskip("qwix", reason="pip install 'gfopt[qwix]'")

W = jax.random.normal(jax.random.key(0), (64, 48))
WAYS = {
    "columns": {"channelwise_axes": [1]},
    "rows": {"channelwise_axes": [0]},
    "groups": {"channelwise_axes": [1], "tiled_axes": {0: 16}},
    "asymmetric": {"channelwise_axes": [1], "calibration_method": "minmax"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [jnp.int4, jnp.int8])
def test_values_are_those_of_qwix(kind, way):
    theirs = qwix.quantize(W, kind, **WAYS[way])
    ours = gfopt.quantization.from_qwix({"w": theirs})["w"]
    np.testing.assert_array_equal(ours.materialise(), qwix.dequantize(theirs))
    assert (ours.zeros is not None) == (way == "asymmetric")
    assert ours.bits == jnp.iinfo(kind).bits
    assert ours.codes.size * 8 == W.size * ours.bits


def test_an_odd_axis_is_padded():
    theirs = qwix.quantize(W[:33], jnp.int4, channelwise_axes=[1])
    ours = gfopt.quantization.from_qwix(theirs)
    np.testing.assert_array_equal(ours.materialise(), qwix.dequantize(theirs))


@pytest.mark.filterwarnings("ignore:'VariableState' was removed")  # in Qwix
def test_a_flax_model_of_theirs_is_tuned_through_its_scales():
    linen = pytest.importorskip("flax.linen", reason="pip install flax")
    model, x = linen.Dense(32), jax.random.normal(jax.random.key(1), (8, 64))
    rule = qwix.QuantizationRule(weight_qtype=jnp.int4, tile_size=16)
    tuned = qwix.quantize_model(model, qwix.PtqProvider([rule]))
    shapes = jax.eval_shape(tuned.init, jax.random.key(2), x)["params"]
    params = model.init(jax.random.key(2), x)["params"]
    tree = gfopt.quantization.from_qwix(qwix.quantize_params(params, shapes))
    assert tree["kernel"].scales.shape == (32, 4)
    with gfopt.lazy.count_materialisations() as made:
        found = interpret(lambda p: model.apply({"params": p}, x))(tree)
    assert made.count == 0
    np.testing.assert_allclose(found, model.apply({"params": params}, x), atol=0.3)
    scales, codes = gfopt.partition(tree)

    def loss(p):
        return jnp.mean((model.apply({"params": p}, x) - 1) ** 2)

    result = gfopt.run(
        gfopt.QZO(1e-4),
        loss,
        scales,
        frozen=codes,
        key=jax.random.key(3),
        generations=300,
    )
    history = result.history["loss"]
    assert history[-1] < 0.9 * history[0]


def test_refuses_what_has_no_like_here():
    for array in (
        qwix.quantize(W, jnp.float8_e4m3fn, channelwise_axes=[1]),
        qwix.quantize(W, jnp.int8),  # one scale for both axes
        qwix.quantize(W[:63], jnp.int4, channelwise_axes=[1], tiled_axes={0: 9}),
    ):
        with pytest.raises(ValueError, match="params must have .*got .* 'layer/w'"):
            gfopt.quantization.from_qwix({"layer": {"w": array}})

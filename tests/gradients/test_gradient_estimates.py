"""The reference checks of gradient estimates, and the bridge into black boxes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gfopt
from gfopt.noise import threefry

KINDS = ["gaussian", "rademacher", "sphere"]
D = 20
X = jnp.linspace(-1, 1, D)


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


def sphere(x: jax.Array) -> jax.Array:
    """A quadratic."""
    return jnp.sum(x**2)


def drawn(estimate: Any, count: int, x: Any = X) -> np.ndarray:
    """Returns ``count`` independent gradients, ``[count, D]``."""
    keys = jax.random.split(jax.random.key(1), count)
    go = jax.jit(lambda keys: jax.lax.map(lambda k: estimate(k, x).gradient, keys))
    return np.asarray(go(keys), np.float64)


@pytest.mark.parametrize(
    ("directions", "factor"), list(zip(KINDS, [D + 2, D, D], strict=True))
)
def test_unbiased_and_as_noisy_as_known(directions: str, factor: float) -> None:
    # Z1, Z2
    count = 20_000
    estimate = gfopt.gradients.gradient_estimator(
        sphere, eps=2.0**-4, directions=directions
    )
    g, true = drawn(estimate, count), np.asarray(2 * X, np.float64)
    error = np.linalg.norm(g.mean(axis=0) - true) / np.linalg.norm(true)
    assert error < 4 * np.sqrt((D + 2) / count)
    ratio = np.sum(g**2, axis=1) / np.sum(true**2)
    spread = 4 * ratio.std() / np.sqrt(count)
    assert abs(ratio.mean() - factor) < spread < 0.05 * factor


@pytest.mark.parametrize("directions", KINDS)
def test_two_sides_of_a_quadratic_do_not_see_eps(x64: None, directions: str) -> None:
    # Z3
    found = [
        gfopt.gradients.gradient_estimator(sphere, eps=eps, directions=directions)(
            jax.random.key(0), jnp.asarray(np.asarray(X, float))
        ).gradient
        for eps in (2.0**-1, 2.0**-6, 2.0**-10)
    ]
    # on the sphere the rounded radius multiplies the direction: 12 bits
    rtol = 2e-3 if directions == "sphere" else 1e-8
    np.testing.assert_allclose(found[1], found[0], rtol)
    np.testing.assert_allclose(found[2], found[0], rtol)


def test_one_side_is_biased_by_eps(x64: None) -> None:
    # Z3: of a cubic, by a part that grows with eps
    x = jnp.array([1.0, 2.0])

    def cubic(x: jax.Array) -> jax.Array:
        return jnp.sum(x**3)

    errors = []
    for eps in (0.01, 0.1, 1.0):
        estimate = gfopt.gradients.gradient_estimator(
            cubic, "one_sided", eps=eps, directions="rademacher", num_directions=4000
        )
        exact = gfopt.gradients.gradient_estimator(
            cubic, eps=1e-4, directions="rademacher", num_directions=4000
        )
        key = jax.random.key(0)
        difference = estimate(key, x).gradient - exact(key, x).gradient
        errors.append(np.linalg.norm(difference))
    assert errors[0] < 0.2 * errors[1] < 0.04 * errors[2]


def test_coordinates_are_exact_on_quadratics(x64: None) -> None:
    # Z3
    matrix = np.random.default_rng(0).normal(size=(6, 6))
    x = {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.array([0.5, -1.0])}

    def f(x: Any) -> jax.Array:
        flat = jnp.concatenate([x["a"].reshape(-1), x["b"]])
        return flat @ (matrix @ flat)

    estimate = gfopt.gradients.gradient_estimator(f, "coordinates", eps=0.5)
    value, gradient = estimate(jax.random.key(0), x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10),
        gradient,
        jax.grad(f)(x),
    )
    chunked = gfopt.gradients.gradient_estimator(
        f, "coordinates", eps=0.5, batch_size=5
    )
    np.testing.assert_allclose(chunked(jax.random.key(0), x).value, value, rtol=1e-12)


@pytest.mark.parametrize("kind", ["two_sided", "one_sided"])
def test_a_linear_function_gives_a_multiple_of_the_direction(
    x64: None, kind: str
) -> None:
    # Z4: p = c'z exactly, and the gradient is p z
    c, x = np.arange(1.0, 6), jnp.ones(5)
    key = jax.random.key(2)
    estimate = gfopt.gradients.gradient_estimator(lambda x: c @ x, kind, eps=2.0**-6)
    gradient = np.asarray(estimate(key, x).gradient)
    z = np.asarray(gfopt.gaussian().sample(x, threefry.seeds(key, 1)[0]), float)
    np.testing.assert_allclose(gradient, (c @ z) * z, rtol=1e-6)


def test_the_solution_is_untouched() -> None:
    # Z5
    x = jnp.linspace(-3, 3, 1001)
    before = np.array(x)
    for kind in ("two_sided", "one_sided", "one_point"):
        gfopt.gradients.gradient_estimator(sphere, kind, num_directions=3)(
            jax.random.key(0), x
        )
    np.testing.assert_array_equal(x, before)


def test_queries_have_directions_of_their_own() -> None:
    # Z7: eight slopes of one, told apart by which numbers they moved
    d, queries = 2000, 8
    seeds = threefry.seeds(jax.random.key(0), queries)
    z = np.stack([gfopt.gaussian().sample(jnp.zeros(d), seed) for seed in seeds])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosines = np.abs(z @ z.T - np.eye(queries))
    assert cosines.max() < 5 / np.sqrt(d)
    c = jnp.ones(d)
    estimate = gfopt.gradients.gradient_estimator(
        lambda x: c @ x, num_directions=queries
    )
    g = np.asarray(estimate(jax.random.key(0), jnp.zeros(d)).gradient)
    left = g - z.T @ np.linalg.lstsq(z.T, g, rcond=None)[0]
    assert np.linalg.norm(left) < 1e-3 * np.linalg.norm(g)  # in their span


def test_q_queries_have_a_qth_of_the_variance() -> None:
    # Z11
    c, count = jnp.linspace(1, 2, 6), 40_000
    variance = {}
    for queries in (1, 8):
        estimate = gfopt.gradients.gradient_estimator(
            lambda x: c @ x, num_directions=queries, directions="rademacher", eps=0.5
        )
        g = drawn(estimate, count, jnp.zeros(6))
        variance[queries] = g.var(axis=0).sum()
    assert abs(8 * variance[8] / variance[1] - 1) < 0.05


def test_one_point_learns_with_the_value_before() -> None:
    estimate = gfopt.gradients.gradient_estimator(
        sphere, "one_point", eps=0.05, directions="rademacher"
    )
    start = jnp.ones(4)

    def step(carry: Any, key: jax.Array) -> Any:
        x, previous = carry
        value, gradient = estimate(key, x, previous=previous)
        return (x - 0.01 * gradient, value), None

    # the first value stands in for the one before it
    first = estimate(jax.random.key(0), start).value
    keys = jax.random.split(jax.random.key(1), 1500)
    (x, _), _ = jax.jit(lambda c, k: jax.lax.scan(step, c, k))((start, first), keys)
    assert sphere(x) < 0.05 * sphere(start)
    # without a value before: unbiased, but with a variance of f^2 / eps^2
    alone = drawn(
        gfopt.gradients.gradient_estimator(sphere, "one_point", eps=0.5), 20_000, start
    )
    error = np.abs(alone.mean(axis=0) - 2)
    assert np.all(error < 4 * alone.std(axis=0) / np.sqrt(20_000))
    with pytest.raises(ValueError, match="^previous must be None for two_sided"):
        gfopt.gradients.gradient_estimator(sphere)(
            jax.random.key(0), start, previous=1.0
        )


def test_what_is_not_finite_weighs_nothing() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.where(x[0] > 0, jnp.nan, jnp.sum(x))

    for kind in ("two_sided", "one_sided", "one_point", "coordinates"):
        queries = 1 if kind == "coordinates" else 8
        estimate = gfopt.gradients.gradient_estimator(fun, kind, num_directions=queries)
        value, gradient = estimate(jax.random.key(0), jnp.zeros(3))
        assert np.all(np.isfinite(gradient)) and np.isfinite(value), kind
    some = gfopt.gradients.gradient_estimator(fun, "one_sided", num_directions=8)
    assert np.any(some(jax.random.key(0), jnp.zeros(3)).gradient != 0)


def test_any_tree_and_any_optax_chain() -> None:
    def loss(x: Any, target: jax.Array) -> jax.Array:
        wide = x["w"].astype(jnp.float32)
        return jnp.sum((wide - target) ** 2) + (x["b"] - 1) ** 2

    # eps is above the spacing of bfloat16 at 1
    estimate = gfopt.gradients.gradient_estimator(
        loss, num_directions=8, directions="rademacher", eps=0.125
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(0.02))
    x = {"w": jnp.zeros((2, 3), jnp.bfloat16), "b": jnp.float32(0)}
    start = loss(x, jnp.ones(3))

    def step(carry: Any, key: jax.Array) -> Any:
        x, state = carry
        gradient = estimate(key, x, jnp.ones(3)).gradient
        updates, state = optimizer.update(gradient, state, x)
        return (optax.apply_updates(x, updates), state), gradient

    keys = jax.random.split(jax.random.key(0), 100)
    (x, _), gradients = jax.lax.scan(step, (x, optimizer.init(x)), keys)
    assert jax.tree.map(lambda leaf: leaf.dtype, gradients) == {
        "w": jnp.bfloat16,
        "b": jnp.float32,
    }
    assert loss(x, jnp.ones(3)) < 0.1 * start


# -- the bridge


def white(w: Any, x: jax.Array) -> jax.Array:
    """An encoder: ``[8] -> [3]``."""
    return jnp.tanh(x @ w)


def black(z: jax.Array) -> jax.Array:
    """What a black box does with a code: ``[3] -> [2]``."""
    return jnp.stack([jnp.sum(z**2), z[0] * z[1] - z[2]])


@pytest.mark.parametrize("through_host", [False, True])
def test_gradients_flow_into_a_black_box(through_host: bool) -> None:
    def asked(z: jax.Array) -> jax.Array:
        if not through_host:
            return black(z)
        shape = jax.ShapeDtypeStruct((2,), jnp.float32)
        return jax.pure_callback(
            lambda z: np.asarray([np.sum(z**2), z[0] * z[1] - z[2]], np.float32),
            shape,
            z,
            vmap_method="sequential",
        )

    boxed = gfopt.gradients.black_box(asked, "coordinates", eps=1e-2)
    w = jax.random.normal(jax.random.key(0), (8, 3)) / 3
    x = jax.random.normal(jax.random.key(1), (4, 8))

    def loss(w: Any, middle: Any) -> jax.Array:
        keys = jax.random.split(jax.random.key(2), 4)
        out = jax.vmap(middle)(keys, white(w, x))
        return jnp.mean(out[:, 0] * 0.5 + out[:, 1] ** 2)

    value, gradient = jax.value_and_grad(loss)(w, boxed)
    exact_value, exact = jax.value_and_grad(loss)(w, lambda _, z: black(z))
    np.testing.assert_allclose(value, exact_value, rtol=1e-6)
    np.testing.assert_allclose(gradient, exact, rtol=1e-2, atol=1e-4)


def test_the_bridge_multiplies_with_the_jacobian_of_the_white_part() -> None:
    # d<r, g>/dw = J^T g, with g the very estimate
    w = jax.random.normal(jax.random.key(0), (8, 3)) / 3
    x, key = jnp.linspace(-1, 1, 8), jax.random.key(3)

    def score(z: jax.Array, scale: jax.Array) -> jax.Array:
        return scale * black(z)[0]

    options = {"num_directions": 5, "directions": "sphere", "eps": 0.01}
    boxed = gfopt.gradients.black_box(score, "one_sided", **options)
    estimate = gfopt.gradients.gradient_estimator(score, "one_sided", **options)
    found = jax.grad(lambda w: boxed(key, white(w, x), jnp.float32(2)))(w)
    z, pull = jax.vjp(lambda w: white(w, x), w)
    (expected,) = pull(estimate(key, z, jnp.float32(2)).gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_outputs_that_are_integers_have_no_part_in_a_gradient() -> None:
    def classified(z: jax.Array) -> dict[str, jax.Array]:
        return {"class": jnp.argmax(z), "score": jnp.sum(z**2)}

    boxed = gfopt.gradients.black_box(classified, "coordinates")
    z = jnp.array([1.0, -2.0])
    found = jax.grad(lambda z: boxed(jax.random.key(0), z)["score"])(z)
    np.testing.assert_allclose(found, 2 * z, rtol=1e-3)


def test_a_sketch_tells_the_gradients_of_samples_apart() -> None:
    # E[C C^T] / m is the Gram matrix of the samples' gradients
    x = jax.random.normal(jax.random.key(0), (6, 4))
    y = jnp.sin(x[:, 0])

    def losses(w: jax.Array) -> jax.Array:
        return (x @ w - y) ** 2

    w, count = jnp.ones(4), 4000
    sketch = gfopt.gradients.per_sample_directional_derivatives(
        losses, w, jax.random.key(1), count, directions="rademacher"
    )
    rows = jax.jacobian(losses)(w)
    gram, size = np.asarray(rows @ rows.T), np.linalg.norm(rows, axis=1)
    error = np.abs(np.asarray(sketch @ sketch.T) / count - gram)
    # the standard error of a product of two slopes is below sqrt(3) |a| |b|
    assert np.all(error < 5 * np.sqrt(3 / count) * np.outer(size, size))


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"kind": "both_sides"}, "^kind must be one of"),
        (ValueError, {"num_directions": 0}, "^num_directions must be an integer, 1"),
        (ValueError, {"eps": 0.0}, "^eps must be a finite number above 0"),
        (ValueError, {"directions": "spheres"}, "directions.*did you mean 'sphere'"),
        (TypeError, {"batch_size": 1.5}, "^batch_size must be an integer"),
        (
            ValueError,
            {"kind": "coordinates", "num_directions": 2},
            "^num_directions must",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(error: Any, options: Any, message: str) -> None:
    for make in (gfopt.gradients.gradient_estimator, gfopt.gradients.black_box):
        with pytest.raises(error, match=message):
            make(sphere, **options)
    with pytest.raises(TypeError, match="^fun must be callable"):
        gfopt.gradients.gradient_estimator(3)
    with pytest.raises(ValueError, match="^kind must not be 'one_point'"):
        gfopt.gradients.black_box(sphere, "one_point")


# -- noise of narrow trees


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_noise_of_narrow_trees_is_that_of_float32(kind: str) -> None:
    # Z12: over 400 keys the mean of 1'z / sqrt(D), and the kurtosis; noise drawn in
    # bfloat16 has a mean of -12.4 here at D = 1e6
    d = 20_000
    like = jnp.zeros(d, jnp.bfloat16)
    family = gfopt.noise.Noise(kind)

    @jax.jit
    def moments(seed: jax.Array) -> Any:
        z = family.sample(like, seed)
        return jnp.sum(z) / jnp.sqrt(d), jnp.mean(z**4)

    found = np.array([moments(seed) for seed in threefry.seeds(jax.random.key(0), 400)])
    assert abs(found[:, 0].mean()) < 0.2
    assert abs(found[:, 0].std() - 1) < 0.15
    assert abs(found[:, 1].mean() - (3 if kind == "gaussian" else 1)) < 0.02

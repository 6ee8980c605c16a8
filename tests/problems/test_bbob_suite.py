"""The 24 BBOB functions against the reference implementation, `coco-experiment`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfopt.problems import bbob, bbob_batch
from gfopt.problems.bbob_suite.functions import BBOB_NAMES

DIMENSIONS = (2, 3, 5, 10, 20, 40)
INSTANCES = range(1, 16)
FUNCTIONS = range(1, 25)


@jax.jit
def values(problems, points):
    """All functions of one dimension in one program: compiling is what costs time."""
    over_points = jax.vmap(lambda p, x: p(x), in_axes=(None, 0))
    return [jax.vmap(over_points)(p, x) for p, x in zip(problems, points, strict=True)]


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_values_equal_the_reference(dimension):
    """24 functions x 15 instances x 4 points in each dimension, and all optima."""
    cocoex = pytest.importorskip("cocoex")
    suite = cocoex.Suite("bbob", "instances:1-15", f"dimensions:{dimension}")
    rng = np.random.default_rng(dimension)
    problems = [bbob_batch(f, dimension, INSTANCES) for f in FUNCTIONS]
    points = []
    for p in problems:
        shape = (len(INSTANCES), 1, dimension)
        optimum = p.x_opt[:, None, :]
        points.append(
            np.concatenate(
                [
                    rng.uniform(-5, 5, shape),
                    rng.uniform(-8, 8, shape),
                    optimum + 1e-1 * rng.normal(size=shape),
                    optimum + 1e-5 * rng.normal(size=shape),
                    optimum,
                ],
                axis=1,
            )
        )
    with jax.enable_x64(True):
        ours = [np.asarray(v) for v in values(problems, points)]
    for function, problem, x, y in zip(FUNCTIONS, problems, points, ours, strict=True):
        reference = np.asarray(
            [
                [
                    suite.get_problem_by_function_dimension_instance(
                        function, dimension, instance
                    )(row)
                    for row in x[i]
                ]
                for i, instance in enumerate(INSTANCES)
            ]
        )
        assert y.dtype == np.float64
        assert_equal(y, reference)
        # The optimum is one, in both implementations.
        assert_equal(y[:, -1], problem.f_opt)
        assert_equal(reference[:, -1], problem.f_opt)
        assert np.all(y >= problem.f_opt[:, None] - 1e-9)


@pytest.mark.parametrize("instance", [71, 110, 200_000])
def test_later_instances_equal_the_reference(instance):
    """The yearly instances go above 15; the generator's seeds grow with them."""
    cocoex = pytest.importorskip("cocoex")
    suite = cocoex.Suite("bbob", f"instances:{instance}", "dimensions:5")
    x = np.random.default_rng(instance).uniform(-6, 6, 5)
    problems = [bbob_batch(f, 5, [instance]) for f in FUNCTIONS]
    with jax.enable_x64(True):
        ours = values(problems, [x[None, None]] * len(problems))
    for function, y in zip(FUNCTIONS, ours, strict=True):
        theirs = suite.get_problem_by_function_dimension_instance(function, 5, instance)
        assert_equal(y, theirs(x))


def test_optimum_has_the_published_form():
    for function in FUNCTIONS:
        problem = bbob(function, 4, 7)
        assert problem.x_opt.shape == (4,) and problem.x_opt.dtype == np.float64
        assert np.all(np.abs(problem.x_opt) <= 5)
        assert problem.f_opt.shape == ()
        assert abs(problem.f_opt) <= 1000
        assert problem.f_opt == np.round(problem.f_opt, 2)
    # Two pairs of functions share their random numbers.
    assert bbob(3, 4, 7).f_opt == bbob(4, 4, 7).f_opt
    np.testing.assert_array_equal(bbob(17, 4, 7).x_opt, bbob(18, 4, 7).x_opt)


def test_rotations_are_orthogonal():
    problem = bbob(6, 20, 3)
    for matrix in (problem.rotation_r, problem.rotation_q):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(20), atol=1e-12)
    assert not np.allclose(problem.rotation_r, problem.rotation_q)


@pytest.mark.parametrize("function", [1, 9, 13, 20, 21])
def test_stacked_instances_equal_a_loop(function):
    with jax.enable_x64(True):
        single = [bbob(function, 3, i) for i in (1, 2, 5)]
        x = np.random.default_rng(0).uniform(-5, 5, (3, 3))
        loop = np.asarray([p(row) for p, row in zip(single, x, strict=True)])
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *single)
        np.testing.assert_array_equal(stacked.instance, [1, 2, 5])
        for batch in (stacked, bbob_batch(function, 3, [1, 2, 5])):
            mapped = jax.vmap(lambda p, row: p(row))(batch, x)
            np.testing.assert_allclose(mapped, loop, rtol=1e-12)


def test_one_program_serves_all_instances():
    traces = []

    @jax.jit
    def value(problem, x):
        traces.append(problem.function)
        return problem(x)

    for instance in (1, 2, 3):
        value(bbob(15, 3, instance), jnp.ones(3))
    assert traces == [15]


def test_single_precision_needs_no_x64():
    """Finite everywhere, in float32, near the double precision values."""
    x = np.random.default_rng(1).uniform(-8, 8, (1, 2, 5)).astype(np.float32)
    problems = [bbob_batch(f, 5, [2]) for f in FUNCTIONS]
    single = values(problems, [x] * len(problems))
    with jax.enable_x64(True):
        double = values(problems, [x.astype(np.float64)] * len(problems))
        assert bbob(24, 5)(x[0, 0]).dtype == jnp.float32
    for function, a, b in zip(FUNCTIONS, single, double, strict=True):
        assert a.dtype == jnp.float32
        assert np.all(np.isfinite(a))
        # The shortest waves of f16 and f19 are about as long as float32 is wide there.
        rtol = 2e-2 if function in (16, 19) else 1e-3
        np.testing.assert_allclose(a, b, rtol=rtol)


def test_integer_points_and_nan():
    problem = bbob(1, 2)
    assert problem([1, 2]) == problem(jnp.asarray([1.0, 2.0]))
    for function in FUNCTIONS:
        problem = bbob(function, 2)
        assert np.isnan(problem(jnp.asarray([0.5, jnp.nan]))), BBOB_NAMES[function]


def test_names():
    assert list(BBOB_NAMES) == list(FUNCTIONS)
    assert len(set(BBOB_NAMES.values())) == 24
    assert repr(bbob(1, 2)).startswith("BBOBProblem(function=1, dimension=2, instance=")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 2, 1), ValueError, r"function must be .* 1 or above; got 0"),
        ((25, 2, 1), ValueError, r"function must be .* from 1 to 24; got 25"),
        ((1.0, 2, 1), TypeError, r"function must be an integer.*; got 1.0 \(float\)"),
        ((True, 2, 1), TypeError, r"function must be an integer.*; got True"),
        ((1, 1, 1), ValueError, r"dimension must be .* 2 or above; got 1"),
        ((1, "2", 1), TypeError, r"dimension must be an integer.*; got '2'"),
        ((1, 2, 0), ValueError, r"instance must be .* 1 or above; got 0"),
        ((1, 2, 10**6), ValueError, r"instance must be .* to 200000; got 1000000"),
        ((1, 2, None), TypeError, r"instance must be an integer.*; got None"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        bbob(*arguments)


def test_bad_batches_and_points_are_named():
    with pytest.raises(TypeError, match="instances must be a list of integers; got 3"):
        bbob_batch(1, 2, 3)
    with pytest.raises(ValueError, match="instances must have one entry or more"):
        bbob_batch(1, 2, [])
    with pytest.raises(ValueError, match=r"x must have shape \(2,\); got shape \(3,\)"):
        bbob(1, 2)(jnp.zeros(3))
    with pytest.raises(ValueError, match="problem must be one instance; got a stack"):
        bbob_batch(1, 2, [1, 2])(jnp.zeros(2))

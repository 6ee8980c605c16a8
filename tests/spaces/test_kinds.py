"""Log-scaled, integer and categorical numbers: always inside, whole, there and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gfopt
from gfopt.spaces.axis import Axis
from gfopt.spaces.bounds import middle_of, space_of

LOWER = np.array([-2.0, 1e-3, -3.0, 1.0, -np.inf, 5.0])
UPPER = np.array([3.0, 1e4, 4.0, 500.0, np.inf, np.inf])
LOG = np.array([False, True, False, True, False, False])
INTEGER = np.array([False, False, True, True, True, True])
SCALE = np.array([1.0, 2.0, 1.5, 0.5, 3.0, 1.0])
SPACE = gfopt.spaces.Space(LOWER, UPPER, SCALE, LOG, INTEGER)
SEARCH = st.lists(
    st.floats(-60, 60, width=32, allow_subnormal=False), min_size=6, max_size=6
)

solution = jax.jit(lambda space, y: space.solution(y))
there_and_back = jax.jit(lambda space, x: space.solution(space.search(x)))
steps = jax.jit(lambda space, y: space.map(Axis.steps, y))


@given(SEARCH)
def test_solutions_are_inside_and_whole(y: list[float]) -> None:
    x = np.asarray(solution(SPACE, jnp.array(y)))
    assert x.dtype == np.float32 and SPACE.contains(x)
    assert np.all(x[INTEGER] == np.round(x[INTEGER]))
    back = np.asarray(there_and_back(SPACE, x))
    np.testing.assert_array_equal(back[INTEGER | ~LOG], x[INTEGER | ~LOG])
    np.testing.assert_allclose(back, x, rtol=1e-5)


@given(SEARCH)
def test_steps_lead_to_the_next_integer(y: list[float]) -> None:
    """Just within the ends nothing changes, just beyond them by one."""
    y = jnp.array(y) / 4  # further out, rounding is more than the slack
    x = np.asarray(solution(SPACE, y))
    for sign, distance in zip((-1, 1), steps(SPACE, y), strict=True):
        distance = np.asarray(distance)
        is_end = np.isfinite(distance)
        assert not np.any(is_end & ~INTEGER)
        step = np.where(is_end, distance, 0)
        slack = 1e-3 * np.maximum(1, np.abs(x)) ** -1  # of the logarithm
        near = np.asarray(solution(SPACE, y + sign * np.maximum(step - slack, 0)))
        far = np.asarray(solution(SPACE, y + sign * (step + slack)))
        assert np.all(np.abs(near - x)[is_end] == 0)
        assert np.all(np.abs(far - x)[is_end] == 1)


def test_an_open_side_has_no_last_integer() -> None:
    below, above = steps(SPACE, jnp.array([0.0, 0.0, -2.0, 0.0, 9.0, 5.0]))
    np.testing.assert_array_equal(np.isfinite(below), [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(np.isfinite(above), [0, 0, 1, 1, 1, 1])


def test_all_integers_are_as_wide() -> None:
    space = gfopt.spaces.Space(np.zeros(1), np.full(1, 3.0), np.ones(1), integer=True)
    y = jnp.linspace(-8.5, 7.5, 1601)[:-1, None] + 0.005
    counts = np.bincount(np.asarray(jax.vmap(space.solution)(y))[:, 0].astype(int))
    np.testing.assert_allclose(counts, 400, atol=4)


def test_a_log_scale_takes_factors_for_steps() -> None:
    space = gfopt.spaces.Space(1e-4, 1.0, np.log(10.0), log=True)
    found = jax.vmap(space.solution)(jnp.array([-3.0, -2.0, -1.0, 0.5]))
    np.testing.assert_allclose(found, [1e-3, 1e-2, 1e-1, 10**-0.5], rtol=1e-5)


def test_choices_are_searched_one_by_one() -> None:
    space = space_of(
        {"a": gfopt.spaces.real(0, 1), "w": gfopt.spaces.categorical(3)},
        x0 := {"a": np.float64(0.5), "w": np.array([2.0, 0.0])},
    )
    y = space.search(x0)
    np.testing.assert_array_equal(y["w"], [[0, 0, 1], [1, 0, 0]])
    x = space.solution({"a": jnp.array(0.2), "w": jnp.array([[0, 3, 1.0], [9, 0, 8]])})
    np.testing.assert_array_equal(x["w"], [1, 0])
    assert x["w"].dtype == x["a"].dtype and space.contains(x0)
    assert not space.contains({"a": 0.5, "w": np.array([3.0, 0.0])})
    assert not space.contains({"a": 0.5, "w": np.array([0.5, 0.0])})


def test_domains_of_a_flat_solution_mix_with_pairs() -> None:
    bounds = [
        gfopt.spaces.real(1, 100, log=True),
        (0, None),
        gfopt.spaces.integer(-1, 4),
    ]
    space = space_of(bounds, np.array([10.0, 1.0, 2.0]))
    np.testing.assert_array_equal(space.lower, [1, 0, -1])
    np.testing.assert_array_equal(space.upper, [100, np.inf, 4])
    np.testing.assert_array_equal(space.log, [True, False, False])
    np.testing.assert_array_equal(space.integer, [False, False, True])
    widths = space.widths()
    np.testing.assert_allclose(widths, [np.log(100), np.inf, 6])


def test_one_domain_serves_all_numbers_of_a_tree() -> None:
    x0 = {"a": np.zeros(2), "b": np.zeros((2, 1))}
    space = space_of(gfopt.spaces.integer(0, 5), x0)
    assert space.integer["b"].shape == (2, 1) and np.all(space.integer["a"])
    assert space.log is None and space.choices == ()
    assert space_of(gfopt.spaces.categorical(2), x0).choices == (2, 2)


def test_the_middle() -> None:
    bounds = {
        "a": gfopt.spaces.real(1, 100, log=True),
        "w": gfopt.spaces.categorical(3),
    }
    middle = middle_of(bounds)
    assert middle["a"] == pytest.approx(10) and middle["w"] == 0
    assert middle_of([(0, 4), gfopt.spaces.integer(0, 5)]).tolist() == [2, 2]
    for bounds, words in (((0, None), "x0 must be given"), ([(0, None)], "no middle")):
        with pytest.raises(ValueError, match=words):
            middle_of(bounds)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: gfopt.spaces.real(0, 1, log=True),
            ValueError,
            "lower must be above 0",
        ),
        (
            lambda: gfopt.spaces.integer(0, 9, log=True),
            ValueError,
            "1 or above for integers",
        ),
        (
            lambda: gfopt.spaces.integer(0.5, 9),
            ValueError,
            "lower must be a whole number",
        ),
        (
            lambda: gfopt.spaces.integer(0, 9.5),
            ValueError,
            "upper must be a whole number",
        ),
        (
            lambda: gfopt.spaces.real(2, 1),
            ValueError,
            "lower must be below or equal to up",
        ),
        (lambda: gfopt.spaces.real("0", 1), TypeError, "lower must be a number"),
        (
            lambda: gfopt.spaces.real(0.1, 1, log=1),
            TypeError,
            "log must be True or False",
        ),
        (
            lambda: gfopt.spaces.categorical(0),
            ValueError,
            "choices must be an integer, 1",
        ),
        (
            lambda: gfopt.spaces.categorical(2.0),
            TypeError,
            "choices must be an integer",
        ),
        (
            lambda: gfopt.spaces.Space(0.0, 1.0, 1.0, log=3.0),
            TypeError,
            "log must be True",
        ),
        (
            lambda: gfopt.spaces.Space(0.0, 1.0, 1.0, integer=[True]),
            ValueError,
            "structure",
        ),
        (
            lambda: gfopt.spaces.Space(0.0, 1.0, 1.0, choices=(2, 2)),
            ValueError,
            "choices",
        ),
        (
            lambda: gfopt.spaces.Space(0.0, 3.0, 1.0, choices=(3,)),
            ValueError,
            "0 and 2",
        ),
        (
            lambda: space_of([gfopt.spaces.categorical(2), (0, 1)], np.zeros(2)),
            ValueError,
            "categorical",
        ),
        (
            lambda: space_of({"a": gfopt.spaces.real(0, 1)}, {"b": np.zeros(1)}),
            ValueError,
            None,
        ),
    ],
)
def test_a_wrong_kind_is_named(make: Any, error: Any, words: str | None) -> None:
    if words is None:  # one domain is for all, whatever it is called
        make()
        return
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("method", ["cma_es", "differential_evolution", "open_es"])
def test_every_call_gets_whole_numbers(method: str) -> None:
    seen = []

    def f(x: Any) -> float:
        seen.append((float(x["n"]), float(x["w"]), float(x["lr"])))
        return (x["n"] - 4.4) ** 2 + abs(np.log10(x["lr"]) + 2) + (x["w"] != 1)

    bounds = {
        "n": gfopt.spaces.integer(0, 7),
        "w": gfopt.spaces.categorical(3),
        "lr": gfopt.spaces.real(1e-4, 1, log=True),
    }
    result = gfopt.minimize(f, None, method=method, bounds=bounds, budget=150, seed=1)
    n, w, lr = np.array(seen).T
    assert set(n) <= set(range(8)) and set(w) == {0, 1, 2}
    assert np.all((lr >= 1e-4) & (lr <= 1))
    assert float(result.recommended["n"]).is_integer()
    assert result.fun == min(f(result.x), result.fun)

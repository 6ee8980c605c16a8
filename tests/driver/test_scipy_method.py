"""``scipy_method``: SciPy's words mean what SciPy says, wherever it takes a method."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult

import gfopt

X0 = [1.5, -0.5]


def sphere(x: Any, shift: float = 0.0) -> float:
    return float(np.sum((np.asarray(x) - shift) ** 2))


def minimize(
    fun: Any = sphere, x0: Any = X0, name: str = "random_search", **words: Any
):
    method = gfopt.scipy_method(name)
    return scipy.optimize.minimize(fun, x0, method=method, **words)


# ---- options


@pytest.mark.parametrize("options", [{"maxfev": 9}, {"maxfun": 9}, {"maxfev": 9.0}])
def test_evaluations_at_most(options):
    found = minimize(options=options)
    assert (found.nfev, found.success) == (9, False) and isinstance(
        found, OptimizeResult
    )


def test_iterations_at_most():
    found = minimize(options={"maxiter": 2, "population_size": 4})
    assert (found.nit, found.nfev, found.success) == (2, 9, False)
    assert found.message == "maxiter of 2 reached" and found.status == 2


def test_disp_prints_how_it_ended(capsys):
    minimize(options={"disp": False, "maxfev": 3})
    assert capsys.readouterr().out == ""
    found = minimize(options={"disp": True, "maxfev": 3})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == found.message and "Function evaluations: 3" in lines[3]
    assert f"function value: {found.fun:f}" in lines[1] and "Iterations: 0" in lines[2]


@pytest.mark.parametrize("word", ["seed", "rng"])
def test_seeds_are_what_scipy_takes_for_one(word):
    def x(seed: Any) -> Any:
        return minimize(options={"maxfev": 4, word: seed}).x.tolist()

    assert x(3) == x(np.int64(3)) != x(4)
    assert x(None) == x(0)
    assert x(np.random.default_rng(1)) == x(np.random.default_rng(1)) != x(0)
    assert x(np.random.RandomState(1)) == x(np.random.RandomState(1)) != x(0)
    with pytest.raises(TypeError, match=f"{word} must be an integer"):
        x("today")


def test_tolerances_end_a_search():
    loose = minimize(name="nelder_mead", tol=0.1)
    tight = minimize(name="nelder_mead", tol=1e-4)
    same = minimize(name="nelder_mead", options={"xatol": 0.1})
    assert loose.success and tight.success and loose.nfev < tight.nfev
    assert same.nfev == loose.nfev and "tol_x = 0.1" in same.message
    minimize(tol=0.1, options={"maxfev": 3})  # it has no tolerance


def test_an_unknown_option_is_refused_with_all_that_are_known():
    with pytest.raises(
        ValueError, match=r"one of .*'disp'.*'maxfev'.*'maxiter'.*'seed'"
    ):
        minimize(options={"maxitre": 3})
    with pytest.raises(ValueError, match="did you mean 'maxiter'"):
        minimize(options={"maxitre": 3})
    with pytest.raises(ValueError, match="maxiter must be an integer, 1 or above"):
        minimize(options={"maxiter": 0})


def test_options_can_be_set_once_for_all_calls():
    method = gfopt.scipy_method("random_search", maxfev=5, seed=2)
    found = scipy.optimize.minimize(sphere, X0, method=method)
    again = minimize(options={"maxfev": 5, "seed": 2})
    assert found.nfev == 5 and found.x.tolist() == again.x.tolist()
    assert (
        scipy.optimize.minimize(sphere, X0, method=method, options={"maxfev": 7}).nfev
        == 7
    )


# ---- bounds, starts, arguments


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(-1, 2),
        Bounds([-1, -1], 2),
        [(-1, 2), (-1, 2)],
        [[-1, 2], [-1, 2]],
        np.array([[-1, 2], [-1, 2]]),
        ((-1, None), (None, 2)),
    ],
    ids=str,
)
def test_bounds(bounds):
    seen = []
    minimize(lambda x: seen.append(np.copy(x)) or sphere(x), bounds=bounds)
    seen = np.array([x for x in seen if x.dtype == float])
    assert seen[:, 0].min() >= -1 and seen[:, 1].max() <= 2


def test_rows_of_two_are_always_pairs():
    """Which ``gfopt.minimize`` refuses: it does not know who wrote them."""
    found = minimize(x0=[0.5, 2.5], bounds=[[0, 1], [2, 3]], options={"maxfev": 30})
    assert 0 <= found.x[0] <= 1 and 2 <= found.x[1] <= 3


def test_a_fixed_number():
    found = minimize(bounds=Bounds([-1, -0.5], [2, -0.5]), options={"maxfev": 9})
    assert found.x[1] == -0.5


@pytest.mark.parametrize("through", ["scipy", "gfopt"])
def test_no_start_is_the_middle_of_the_bounds(through):
    seen: list[Any] = []

    def fun(x: Any) -> float:
        value = sphere(x)
        seen.append(x.tolist())
        return value

    bounds = Bounds([0, 1], [1, 5])
    if through == "scipy":
        minimize(fun, None, bounds=bounds, options={"maxfev": 3})
    else:
        gfopt.minimize(fun, None, bounds=bounds, budget=3, method="random_search")
    assert seen[0] == [0.5, 3.0]
    with pytest.raises(ValueError, match="x0 must be given where a bound is infinite"):
        gfopt.minimize(fun, None, bounds=Bounds([0, 1], np.inf))


def test_arguments_of_the_function():
    for args in ((2.0,), 2.0):
        found = minimize(x0=[2.0, 2.0], args=args, options={"maxfev": 3})
        assert found.fun == 0


def test_constraints_are_those_of_minimize():
    ball = scipy.optimize.NonlinearConstraint(lambda x: float(x @ x), 1, np.inf)
    found = minimize(name="nelder_mead", constraints=[ball], options={"maxfev": 60})
    assert found.x @ found.x >= 1


# ---- callbacks


def test_both_forms_of_callbacks():
    xs: list[Any] = []
    results: list[Any] = []

    def new(intermediate_result: Any) -> None:
        results.append(intermediate_result)

    def old(xk: Any) -> bool:
        xs.append(xk)
        return True  # which means nothing to SciPy

    words: dict[str, Any] = {"options": {"maxfev": 13, "population_size": 4}}
    found = minimize(callback=old, **words)
    minimize(callback=new, **words)
    assert [x.tolist() for x in xs] == [r.x.tolist() for r in results]
    assert len(xs) == found.nit == 3 and isinstance(results[0], OptimizeResult)
    assert results[-1].fun == found.fun
    minimize(callback=xs.append, **words)  # a function in C
    assert len(xs) == 6


def test_stop_iteration_ends_the_search():
    def stop(xk: Any) -> None:
        raise StopIteration

    found = minimize(callback=stop)
    assert found.nit == 1 and not found.success and "callback" in found.message


# ---- whatever calls minimize


def double_well(x: Any) -> float:
    x = np.asarray(x)
    return float(np.sum((x**2 - 1) ** 2 + 0.3 * x))


LOCAL = {"method": gfopt.scipy_method("nelder_mead"), "tol": 1e-4}
BOUNDS = [(-2, 2), (-2, 2)]
BEST = -0.611  # of double_well, near (-1, -1)
# they renamed seed to rng in 1.15
SEED = {"seed" if scipy.__version__ < "1.15" else "rng": 1}


def test_basinhopping():
    words: dict[str, Any] = {"niter": 15, "stepsize": 2.0} | SEED
    found = scipy.optimize.basinhopping(
        double_well, [1.0, 1.0], minimizer_kwargs=LOCAL, **words
    )
    assert found.fun == pytest.approx(BEST, abs=0.01)
    assert found.minimization_failures == 0


def test_dual_annealing():
    local = LOCAL | {"bounds": BOUNDS}
    found = scipy.optimize.dual_annealing(
        double_well, BOUNDS, maxiter=50, minimizer_kwargs=local, **SEED
    )
    assert found.fun == pytest.approx(BEST, abs=0.01)


def test_shgo():
    method = gfopt.scipy_method("nelder_mead", maxfev=60, seed=1)
    for options in (None, {"ftol": 1e-6}):
        found = scipy.optimize.shgo(
            double_well,
            BOUNDS,
            n=20,
            minimizer_kwargs={"method": method},
            options=options,
            sampling_method="sobol",
        )
        assert found.success and found.fun == pytest.approx(BEST, abs=0.01)


def test_differential_evolution_polishes():
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 15):
        polish: Any = True  # it takes no function yet
    else:
        method = gfopt.scipy_method("nelder_mead", tol=1e-6)
        polish = partial(scipy.optimize.minimize, method=method)
    found = scipy.optimize.differential_evolution(
        sphere, [(-2, 2)] * 2, maxiter=3, popsize=4, polish=polish, **SEED
    )
    assert found.fun < 1e-6

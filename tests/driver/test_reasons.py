"""Why searches end, and which ends are successes: one table for all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.configurations import configuration
from driver.shared import X0, minimize

import gfopt
from gfopt import Status, registry
from gfopt.driver.result.endings import REASONS, STATUSES, ending_of
from gfopt.driver.setup.setup import setup
from gfopt.protocol import as_method

PAGE = Path(__file__).parents[2] / "docs" / "endings.md"
SUCCESSES = {Status.CONVERGED, Status.TARGET, Status.COMPLETE}


def reasons_of(method: Any, x0: Any) -> set[str]:
    def asked(key: Any) -> Any:
        return as_method(method).stop(method.init(key, x0))

    return set(jax.eval_shape(asked, jax.random.key(0)))


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_reason_of_every_method_stands_in_the_table(name):
    row = registry.METHODS[name]
    x0 = jnp.zeros(3, jnp.int32) if row.tokens else jnp.zeros(3)
    found = reasons_of(registry.method(name, configuration(row).options), x0)
    assert found <= set(REASONS)
    assert bool(found) == ("stops" in row.flags) or found == {"max_generations"}


def test_reasons_of_wrappers_stand_in_the_table():
    found = reasons_of(gfopt.Restarts(gfopt.CMAES(), patience=2), jnp.zeros(3))
    assert found == {"patience"}


def test_every_status_and_reason_stands_in_the_page():
    lines = PAGE.read_text().splitlines()
    for status, meaning in STATUSES.items():
        word = "yes" if status.is_success else "no"
        assert f"| `{status.name}` | {int(status)} | {word} | {meaning} |" in lines
    for name, (status, meaning) in REASONS.items():
        assert f"| `{name}` | `{status.name}` | {meaning} |" in lines
    assert sum(line.startswith("| `") for line in lines) == len(STATUSES) + len(REASONS)


def test_a_success_is_what_was_searched_for():
    assert {status for status in Status if status.is_success} == SUCCESSES
    assert set(STATUSES) == set(Status)


@pytest.mark.parametrize(
    ("names", "is_better", "status"),
    [
        (["tol_x"], False, Status.CONVERGED),  # x0 is the optimum
        (["flat"], True, Status.CONVERGED),
        (["flat", "stagnation"], False, Status.STALLED),
        (["flat", "tol_fun"], False, Status.CONVERGED),
        (["no_effect_axis", "flat"], False, Status.PRECISION),
        (["tol_fun", "no_effect_axis"], True, Status.CONVERGED),
        (["tol_x", "tol_up", "tol_fun"], True, Status.DIVERGED),
        (["max_generations"], True, Status.BUDGET),
        (["num_sweeps"], False, Status.COMPLETE),
        (["somebody's own"], False, Status.CONVERGED),
        (["somebody's own", "diverged"], False, Status.DIVERGED),
    ],
)
def test_the_worst_of_several_reasons_decides(names, is_better, status):
    found, message = ending_of(gfopt.CMAES(), names, True, is_better)
    assert found == status and all(name in message for name in names)
    failed, message = ending_of(gfopt.CMAES(), names, False, is_better)
    assert failed == Status.FAILED and message.startswith("no valid value; ")


@pytest.mark.parametrize("name", ["cma_es", "sep_cma_es", "nelder_mead", "snes"])
def test_a_search_that_runs_away_has_not_succeeded(name):
    found = gfopt.minimize(lambda x: jnp.sum(x), X0, method=name, budget=20_000)
    assert found.status == Status.DIVERGED and not found.success
    assert found.message.startswith("diverged: ")


@pytest.mark.parametrize("name", ["differential_evolution", "particle_swarm"])
def test_members_at_the_end_of_numbers_have_run_away(name):
    method = registry.method(name, {"population_size": 4})
    state = method.init(jax.random.key(0), jnp.full(2, 1e30))
    found = {key: bool(holds) for key, holds in method.stop(state).items()}
    assert found["diverged"]


def test_ask_tell_says_the_same():
    search = gfopt.AskTell("cma_es", X0, sigma0=1e-3, options={"tol_up": 10.0})
    while not search.stop():
        trials = search.ask()
        search.tell(trials, [float(trial.solution.sum()) for trial in trials])
    found = search.result
    assert found.status == Status.DIVERGED and not found.success
    assert found.message == "diverged: tol_up = 10.0"


# ---- starts that are far away


@pytest.mark.parametrize("far", [1e25, 1e138])
@pytest.mark.parametrize("name", ["differential_evolution", "nelder_mead", "cma_es"])
def test_a_start_far_away_is_searched_where_it_is(name, far):
    seen = []

    def fun(x: Any) -> float:
        seen.append(np.max(np.abs(x)) / far)
        return float(seen[-1])

    found = gfopt.minimize(fun, [far, -far], method=name, budget=12)
    assert 0.02 < min(seen) and max(seen) < 5 and found.fun <= 1
    assert np.std(seen) > 0.01  # it moves, in steps of that size


def test_a_start_that_no_method_can_move_from_is_refused():
    with pytest.raises(ValueError, match=r"x0 must lie within 1e\+30 units"):
        minimize(x0=[1e138, 0.0])
    with pytest.raises(ValueError, match=r"x0 must lie within 1e\+30 units"):
        gfopt.AskTell("cma_es", [1e138, 0.0], sigma0=1.0)
    with pytest.raises(ValueError, match=r"x0 must lie within 1e\+30 units"):
        x0 = jnp.array([1e31, 0.0])
        gfopt.run(gfopt.CMAES(), jnp.sum, x0, key=jax.random.key(0), generations=1)
    assert setup("cma_es", [1e138, 0.0], sigma0=1e137).optimizer.inner.sigma == 1
    bounds = [(0, 1e140), (-1, 1)]
    assert setup("snes", [1e138, 0.0], bounds=bounds).x0[0] == 1e138

"""With its method, a run is a log of values."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

import gfopt
from gfopt.driver.replay.replay import checksum_of_leaves
from gfopt.driver.replay.value_log import checksum_of_method

X0 = {"w": np.ones((5, 3), np.float32), "b": np.linspace(0, 1, 7, dtype=np.float32)}
ES = gfopt.OpenES(6, sigma=0.1, learning_rate=0.05)
GA = gfopt.DeepGA(8, num_parents=3, sigma=0.1, noise=gfopt.rademacher())


def run(method: Any, steps: int = 5) -> tuple[Any, gfopt.ValueLog]:
    """Runs a method on a function that keeps its values; some calls fail."""
    values: list[float] = []

    def loss(x: Any) -> float:
        found = float(sum(np.sum((leaf - 0.5) ** 2) for leaf in jax.tree.leaves(x)))
        values.append(math.nan if len(values) % 11 == 5 else found)
        return values[-1]

    size = method.population_size
    budget = steps * size + 1  # the first value is that of x0
    result = gfopt.minimize(loss, X0, method=method, seed=3, budget=budget)
    rows = np.array(values[1:], np.float32).reshape(steps, size)
    start = jax.tree.map(jax.numpy.asarray, X0)
    header = {"leaves": checksum_of_leaves(start), "method": checksum_of_method(method)}
    return result, gfopt.ValueLog(rows, 3, header)


@pytest.mark.parametrize("method", [ES, GA], ids=["open_es", "deep_ga"])
def test_a_run_is_told_again(method: Any, tmp_path: Any) -> None:
    result, log = run(method)
    assert np.isnan(log.values).any()
    path = tmp_path / "run.log"
    log.save(path)
    assert path.stat().st_size < 4 * log.values.size + 400
    found = gfopt.replay(X0, path, method)
    for mine, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(result.recommended), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    # its beginning is a shorter run
    assert len(log[:2]) == 2
    shorter, _ = run(method, 2)
    found = gfopt.replay(X0, log[:2], method)
    np.testing.assert_allclose(found["w"], shorter.recommended["w"], 1e-5, 1e-6)


def test_other_runs_are_refused(tmp_path: Any) -> None:
    log, path = run(ES, 2)[1], tmp_path / "run.log"
    log.save(path)
    for base, method, text in [
        (X0, gfopt.OpenES(6, sigma=0.2, learning_rate=0.05), "^method must be that of"),
        ({**X0, "more": np.ones(2)}, ES, "^base must be what the run started from"),
    ]:
        with pytest.raises(ValueError, match=text):
            gfopt.replay(base, path, method)
    with pytest.raises(ValueError, match="6 candidates a step; got 2"):
        gfopt.replay(X0, gfopt.ValueLog(np.ones((3, 2))), ES)
    with pytest.raises(ValueError, match="must be a zeroth-order log"):
        gfopt.replay(X0, path)
    with pytest.raises(TypeError, match="a ValueLog with its method"):
        gfopt.replay(X0, log)
    with pytest.raises(ValueError, match=r"^values must be float\[T, P\].*\[3\]"):
        gfopt.ValueLog(np.ones(3))
    with pytest.raises(ValueError, match=r"^seed must be below 2\*\*64"):
        gfopt.ValueLog(np.ones((3, 2)), seed=2**64)
    with pytest.raises(ValueError, match="^steps must start with the first"):
        log[1:]
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="is damaged"):
        gfopt.ValueLog.read(path)
    gfopt.ReplayLog(
        np.zeros(1, np.uint32), np.zeros(1, np.float32), np.zeros(1, np.float32),
        {"noise": "gaussian", "rounding": "nearest"},
    ).save(path)  # fmt: skip
    with pytest.raises(ValueError, match="must be a value log"):
        gfopt.ValueLog.read(path)

"""A run of zeroth-order SGD is a log of scalars."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gfopt
from gfopt.driver.replay.log_writer import LogWriter
from gfopt.driver.storage import records as layout
from gfopt.driver.storage.storage import read_records

KEY = jax.random.key(0)
# a small matrix, a vector, one in blocks, a number: all layouts of noise
X0 = {
    "w": jnp.ones((5, 3)),
    "b": jnp.linspace(0, 1, 7),
    "blocks": jnp.full((130, 600), 0.5),
    "n": jnp.float32(2),
}
STEPS = 1000


def loss(x: Any) -> jax.Array:
    """A quadratic over the tree, of any dtype, with a failure now and then."""
    total = sum(jnp.mean(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(x))
    fails = jnp.sin(1e4 * jnp.sum(x["b"].astype(jnp.float32))) > 0.9
    return jnp.where(fails, jnp.nan, total)


def same(a: Any, b: Any) -> None:
    """Asserts that two trees have all bits in common."""
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def run(optimizer: Any, generations: int, x0: Any = X0, state: Any = None) -> Any:
    """Runs a method on the loss."""
    return gfopt.run(optimizer, loss, x0, key=KEY, generations=generations, state=state)


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        (gfopt.MeZO(0.01, eps=0.01), jnp.float32),
        (
            gfopt.MeZO(lambda step: 0.01 / (1 + 0.01 * step), noise=gfopt.rademacher()),
            None,
        ),
        (gfopt.SPSA(0.02, rounding="stochastic", eps=0.1), jnp.bfloat16),
    ],
    ids=["gaussian", "signs_with_schedule", "bfloat16"],
)
def test_a_run_is_replayed_bit_for_bit(
    optimizer: Any, dtype: Any, tmp_path: Any
) -> None:
    # Z6
    x0 = X0 if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), X0)
    result = run(optimizer, STEPS, x0)
    log = gfopt.ReplayLog.of(result)
    assert len(log) == STEPS and np.any(np.asarray(result.history["skipped"]))
    same(gfopt.replay(x0, log), result.recommended)
    assert loss(result.recommended) < 0.95 * loss(x0)
    log.save(tmp_path / "run.log")
    assert (tmp_path / "run.log").stat().st_size < 20_000
    same(gfopt.replay(x0, tmp_path / "run.log"), result.recommended)


def test_a_branch_is_a_prefix() -> None:
    optimizer = gfopt.MeZO(0.01)
    first = run(optimizer, 40)
    whole = run(optimizer, 60, state=first.state)
    log = gfopt.ReplayLog.of(run(optimizer, 100))
    same(gfopt.replay(X0, log[:40]), first.recommended)
    same(gfopt.replay(X0, log), whole.recommended)
    same(gfopt.replay(X0, log[:0]), X0)
    for wrong in (slice(3, None), slice(None, None, 2)):
        with pytest.raises(ValueError, match="^steps must start with the first"):
            log[wrong]


def test_a_stopped_run_has_the_steps_that_were_made() -> None:
    result = gfopt.run(
        gfopt.MeZO(0.01),
        loss,
        X0,
        key=KEY,
        generations=30,
        stop=lambda state, info: state.step >= 12,
    )
    log = gfopt.ReplayLog.of(result)
    assert len(log) == 12
    same(gfopt.replay(X0, log), result.recommended)


def minimize(path: Any, **options: Any) -> Any:
    """Runs ``minimize`` with a log."""
    given = {"method": gfopt.MeZO(0.01), "budget": 600, "log": path, **options}
    return gfopt.minimize(loss, X0, **given)


def test_minimize_writes_its_log(tmp_path: Any) -> None:
    path = tmp_path / "run.log"
    result = minimize(path)
    assert len(gfopt.ReplayLog.read(path)) == result.nit
    same(gfopt.replay(X0, path), result.recommended)
    same(gfopt.replay(X0, gfopt.ReplayLog.of(result)), result.recommended)
    # the same run once more finds its steps there; another run does not
    size = path.stat().st_size
    minimize(path)
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match=r"^log must be.*run.log holds other steps"):
        minimize(path, seed=1)
    with pytest.raises(ValueError, match="^log must be a new file.*rademacher"):
        minimize(path, method=gfopt.MeZO(0.01, noise=gfopt.rademacher()))


def test_float64_is_replayed_in_float64(tmp_path: Any) -> None:
    path, x0 = tmp_path / "run.log", np.linspace(-1, 1, 5)
    result = gfopt.minimize(
        lambda x: jnp.sum(x**2), x0, method="mezo", budget=200, log=path
    )
    assert result.recommended.dtype == np.float64
    same(gfopt.replay(x0, path), result.recommended)


@pytest.mark.parametrize(
    "x0",
    [np.ones(5, np.float32), np.linspace(-1, 1, 5), [0.5, 2.0], {"n": 3, "w": [1.0]}],
    ids=["float32", "float64", "list", "numbers"],
)
def test_a_score_from_python_is_replayed_bit_for_bit(x0: Any, tmp_path: Any) -> None:
    path = tmp_path / "run.log"

    def score(x: Any) -> float:
        return sum(float(((np.asarray(a) - 3) ** 2).sum()) for a in jax.tree.leaves(x))

    result = gfopt.minimize(
        score, x0, method=gfopt.MeZO(0.01), budget=41, log=path, target=1e-9
    )
    log = gfopt.ReplayLog.read(path)
    assert len(log) == result.nit == 20 and log.seed.dtype == np.uint32
    same(gfopt.replay(x0, log), result.recommended)
    same(gfopt.replay(x0, gfopt.ReplayLog.of(result)), result.recommended)


def test_other_weights_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "run.log"
    minimize(path, budget=40)
    for wrong in (
        {**X0, "more": jnp.ones(2)},
        {**X0, "b": jnp.ones(8)},
        {**X0, "n": jnp.bfloat16(2)},
    ):
        with pytest.raises(ValueError, match="^base must be what the run started from"):
            gfopt.replay(wrong, path)


def test_a_log_that_is_longer_than_its_run_is_told(tmp_path: Any) -> None:
    path = tmp_path / "run.log"
    minimize(path, budget=80)
    with pytest.warns(UserWarning, match="run.log holds 39 steps, and this run made"):
        shorter = minimize(path, budget=40)
    log = gfopt.ReplayLog.read(path)
    same(gfopt.replay(X0, log[: shorter.nit]), shorter.recommended)


def test_a_torn_record_is_noticed_and_dropped(tmp_path: Any) -> None:
    path = tmp_path / "run.log"
    # batches make it a record for each step
    once = {"batches": lambda step, key: None, "budget": 41}
    f = gfopt.Objective(lambda x, batch: loss(x))
    options = {"method": gfopt.MeZO(0.01), "log": path, **once}
    result = gfopt.minimize(f, X0, **options)
    assert result.nit == 20 and len(gfopt.ReplayLog.read(path)) == 20
    whole = path.read_bytes()
    with open(path, "rb", buffering=0) as file:
        chain = layout.Chain()
        layout.read_header(file, path, chain)
        file.seek(layout.verify_frame(file, chain) + 4, 1)
        second = file.tell()  # where the record of the second step begins
    for size, left in [(len(whole) - 3, 20), (len(whole) - 25, 20), (second + 5, 1)]:
        os.truncate(path, size)
        with pytest.warns(UserWarning, match=f"has no end: .* first {left} steps"):
            log = gfopt.ReplayLog.read(path)
        assert len(log) == left
        same(gfopt.replay(X0, log), gfopt.replay(X0, gfopt.ReplayLog.of(result)[:left]))
    # what is behind a damaged record is not a part of the run without it
    path.write_bytes(whole[: second + 4] + b"?" + whole[second + 5 :])
    with pytest.warns(UserWarning, match="wrong checksum.* first 1 steps are read"):
        assert len(gfopt.ReplayLog.read(path)) == 1
    # the run that goes on writes it once more
    with pytest.warns(UserWarning, match="damaged.* first 1 steps are kept, the other"):
        again = gfopt.minimize(f, X0, **options)
    assert len(gfopt.ReplayLog.read(path)) == 20 and not read_records(path).lost
    same(gfopt.replay(X0, path), again.recommended)


def test_a_thousand_records_of_a_step_are_below_20_kb(tmp_path: Any) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "run.log"
    columns = {
        "seed": rng.integers(0, 2**32, STEPS, np.uint32),
        "projected_gradient": rng.normal(size=STEPS).astype(np.float32),
        "learning_rate": np.full(STEPS, 1e-6, np.float32),
    }
    with LogWriter(path, gfopt.MeZO(), X0) as writer:
        for count in range(1, STEPS + 1):
            writer.update({name: each[:count] for name, each in columns.items()})
    assert path.stat().st_size < 20_000
    log = gfopt.ReplayLog.read(path)
    for name, column in columns.items():
        np.testing.assert_array_equal(getattr(log, name), column)


def test_goes_on_with_a_checkpoint(tmp_path: Any) -> None:
    straight = minimize(tmp_path / "straight.log", budget=400)
    paths = {"path": tmp_path / "run.log", "checkpoint": tmp_path / "run.ckpt"}
    minimize(**paths, budget=200)
    found = minimize(**paths, budget=400)
    same(found.recommended, straight.recommended)
    same(gfopt.replay(X0, tmp_path / "run.log"), straight.recommended)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (gfopt.FZOO(), "^method must be one whose steps are a seed and two numbers"),
        (gfopt.MeZO(population_size=4), "^method must have one direction a step"),
        (gfopt.MeZO(transform=optax.adam(0.1)), "^method must have one direction"),
        (gfopt.MeZO(noise=gfopt.low_rank()), "^method must have one direction"),
        ("cma_es", "^method must be one whose steps"),
    ],
    ids=["fzoo", "several", "transform", "low_rank", "cma_es"],
)
def test_other_methods_are_refused(method: Any, message: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=message):
        minimize(tmp_path / "run.log", method=method)
    assert not (tmp_path / "run.log").exists()


def test_wrong_logs_are_refused(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="^log must be a ReplayLog or the path"):
        gfopt.replay(X0, 3)
    with pytest.raises(TypeError, match="^log must be a path"):
        minimize(3)
    column = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="^header must say 'noise' and 'rounding'"):
        gfopt.ReplayLog(np.zeros(2, np.uint32), column, column, {})
    with pytest.raises(ValueError, match="must have one length"):
        gfopt.ReplayLog(np.zeros(3, np.uint32), column, column, {})
    with pytest.raises(ValueError, match="^method must be one.* without bounds"):
        minimize(tmp_path / "bounded.log", bounds=(-1, 3))
    other = tmp_path / "genome"
    optimizer = gfopt.DeepGA(population_size=4, num_parents=2)
    key, x0 = KEY, jnp.ones(3)
    result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), x0, key=key, generations=2)
    gfopt.genome.save(other, optimizer, result.state)
    with pytest.raises(ValueError, match="must be a zeroth-order log"):
        gfopt.ReplayLog.read(other)
    runs = jax.vmap(
        lambda k: gfopt.run(
            gfopt.MeZO(), lambda x: jnp.sum(x**2), x0, key=k, generations=2
        )
    )(jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match="^result must be of one run"):
        gfopt.ReplayLog.of(runs)

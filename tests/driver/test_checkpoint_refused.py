"""Checkpoints that cannot be gone on with are refused, and left as they are."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from driver import functions
from driver.shared import SMALL, X0, Recorded, host_plateau, plateau

import gfopt
from gfopt.driver.storage import fingerprint


def minimize(fun: Any, path: Any = None, x0: Any = X0, **words: Any) -> gfopt.Result:
    return gfopt.minimize(fun, x0, checkpoint=path, **(SMALL | {"budget": 20} | words))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.gfopt"


@pytest.mark.parametrize(
    "method",
    [
        lambda rate: gfopt.MeZO(transform=optax.adam(rate)),
        lambda rate: gfopt.MeZO(lambda step: rate / (step + 1)),
        lambda rate: gfopt.MeZO(partial(optax.cosine_decay_schedule(rate, 9))),
        lambda rate: gfopt.MeZO(jax.jit(optax.constant_schedule(rate))),
    ],
    ids=["transform", "closure", "partial", "jit"],
)
def test_another_function_is_refused(path, method):
    words = {"options": None, "budget": 8}
    first = minimize(host_plateau, path, method=method(0.1), **words)
    again = minimize(host_plateau, path, method=method(0.1), **words)
    assert again.nfev == first.nfev
    with pytest.raises(ValueError, match="(?s)is of another run.*crc32"):
        minimize(host_plateau, path, method=method(0.2), **words)


def test_a_function_is_described_by_its_numbers():
    described = fingerprint.described
    assert described(lambda step: 0.1) == described(lambda step: 0.1)
    assert described(lambda step: 0.1) != described(lambda step: 0.2)
    # also those of a function within, and of its defaults
    assert described(lambda step: (lambda: 1)()) != described(lambda s: (lambda: 2)())
    assert described(lambda step, power=2: step) != described(lambda step: step)

    def recursive(n: int) -> int:
        return recursive(n - 1) if n else 0

    assert described(recursive).startswith("test_a_function")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"seed": 5}, "config.seed: expected 5, found 0"),
        ({"x0": [1.5, 0.5]}, "config.x0: expected [1.5, 0.5], found [1.5, -0.5]"),
        ({"x0": jnp.array(X0)}, "precision: expected ['float32'], found ['float64']"),
        (
            {"options": SMALL["options"] | {"sigma": 0.2}},
            "sigma: expected 0.2, found 0.1",
        ),
        (
            {"options": SMALL["options"] | {"population_size": 6}},
            "method.population_size: expected 6, found 4",
        ),
        (
            {"method": "random_search", "options": {}},
            "expected 'RandomSearch', found 'OpenES'",
        ),
        ({"bounds": (-9, 9)}, "method.space: expected {"),
        ({"bounds": (None, 9)}, "method.space: expected {"),
        ({"maximize": True}, "maximize: expected True, found False"),
        ({"args": (3,)}, "args: expected [3], found []"),
        ({"fun": functions.highest}, "expected 'highest', found 'host_plateau'"),
        (
            {"fun": gfopt.Objective(host_plateau, takes_key=True)},
            "takes_key: expected True",
        ),
    ],
)
def test_another_configuration_is_refused_with_the_difference(path, words, line):
    minimize(host_plateau, path, budget=8)
    before = path.read_bytes()
    fun = words.pop("fun", host_plateau)
    with pytest.raises(ValueError, match="is of another run") as caught:
        minimize(fun, path, **words)
    assert line in str(caught.value) and "Use another path" in str(caught.value)
    assert path.read_bytes() == before
    assert minimize(host_plateau, path, budget=9).nfev == 9  # and it is free again


def test_a_run_stays_on_its_path(path, tmp_path):
    minimize(plateau, path, budget=9)
    with pytest.raises(ValueError, match="must not ask for Python calls"):
        minimize(plateau, path, evaluator=gfopt.host())
    other = tmp_path / "host"
    minimize(host_plateau, other, evaluator=gfopt.host(), budget=8)
    assert minimize(host_plateau, other, budget=12).path == "host"
    with pytest.raises(ValueError, match="evaluator must be gfopt.host"):
        minimize(host_plateau, other, evaluator=gfopt.vmapped())


def test_paths_that_cannot_be_written(tmp_path):
    calls = Recorded()
    with pytest.raises(OSError, match="No such file"):
        minimize(calls, tmp_path / "missing" / "run")
    with pytest.raises(OSError, match="directory"):
        minimize(calls, tmp_path)
    other = tmp_path / "notes.txt"
    other.write_text("not a run")
    with pytest.raises(ValueError, match="is not"):
        minimize(calls, other)
    assert other.read_text() == "not a run" and calls.seen == []


def test_the_description_of_a_run_depends_on_values_only():
    key = jax.random.key(3)
    one, other = (
        fingerprint.described(
            (np.array(["a", None], object), key, np.arange(100.0), {1: True}, len, 2.0)
        )
        for _ in range(2)
    )
    assert one == other
    assert one[0] == ["a", None] and one[1] == [0, 3] and one[4:] == ["len", 2.0]
    assert fingerprint.described(np.arange(100.0) + 1) != one[2]

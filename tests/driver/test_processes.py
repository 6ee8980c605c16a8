"""Two JAX processes with two devices each make the search of one with four."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from driver import joint_search
from together import free_port, run_together

SCRIPT = Path(joint_search.__file__)


class Ended(NamedTuple):
    folder: Path
    found: list[dict[str, list[np.ndarray]]]  # of each process
    errors: list[str]


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    """Runs the script in two processes."""
    port = free_port()
    calls = [[str(SCRIPT), port, str(index), str(tmp_path)] for index in (0, 1)]
    ends = run_together(calls, [{}, {}])
    errors = [end.err for end in ends]
    if joint_search.NO_GLOO in [end.code for end in ends]:
        pytest.skip(f"no collectives between processes here: {errors[0][-300:]}")
    assert [end.code for end in ends] == [0, 0], errors
    found = []
    for index in (0, 1):
        named: dict[str, list[np.ndarray]] = {}
        for name, leaf in np.load(tmp_path / f"process_{index}.npz").items():
            named.setdefault(name.split()[0], []).append(leaf)
        found.append(named)
    return Ended(tmp_path, found, errors)


def same_bits(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for leaf, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(leaf, wanted)


def test_two_processes_make_the_search_of_one(ended: Ended) -> None:
    """One test, or each of pytest's workers would start the two."""
    straight = joint_search.search()
    for found in ended.found:
        for name, method in joint_search.METHODS.items():
            same_bits(found[name], joint_search.run(method))
        same_bits(found["minimize"], joint_search.found_by(straight))

    # only the first writes and shows
    names = {path.name for path in ended.folder.iterdir()}
    assert names == {"run.gfopt", "run.gfopt.prev", "process_0.npz", "process_1.npz"}
    assert ["evaluations" in text for text in ended.errors] == [True, False]

    # one process goes on where two have stopped
    twice = 2 * joint_search.BUDGET
    resumed = joint_search.search(ended.folder / "run.gfopt", twice)
    assert resumed.nfev == twice
    longer = joint_search.search(budget=twice)
    same_bits(joint_search.found_by(resumed), joint_search.found_by(longer))

    # what one of them sees ends all: a callback, a file of another run
    nits, refusals = zip(*(found["alone"] for found in ended.found), strict=True)
    assert nits == (3, 3)
    assert str(refusals[0]).startswith("ValueError: checkpoint")
    assert str(refusals[1]).startswith("RuntimeError: the first process raised Value")

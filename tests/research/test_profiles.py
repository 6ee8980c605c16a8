"""Profiles against double loops, and the figures as files."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from pathlib import Path

import numpy as np
import pytest

from gfopt.research.figure_files import COLOURS, write_figures
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.profiles import data_profile, performance_profile
from gfopt.research.report import page
from gfopt.research.statistics import (
    TARGETS,
    bootstrap_interval,
    median_interval_places,
    running_times,
)
from gfopt.research.summary import Section, sections


def _run(method: str, problem: str, instance: int, *pairs: tuple[int, float]) -> Run:
    key = RunKey("bbob", problem, 2, instance, method, 60, 0, "jax")
    return Run(key, {}, 60, "budget", 0.1, 0.0, pairs, optimum=0.0)


RUNS = [
    _run("a", "f1", 1, (1, 8.0), (6, 0.7), (30, 1e-9)),
    _run("a", "f1", 2, (1, 8.0), (9, 1e-4)),
    _run("a", "f2", 1),  # never a value
    _run("b", "f1", 1, (2, 10.0), (3, 0.7)),
    _run("b", "f1", 2, (1, 8.0), (18, 1e-9)),
    _run("b", "f2", 1, (4, 5.0), (8, 0.4)),
    _run("c", "f2", 1, (1, 7.0)),  # and not on f1
]


@pytest.fixture(scope="module")
def section() -> Section:
    (found,) = sections(RUNS)
    return found


def test_the_performance_profile_is_that_of_a_double_loop(section: Section) -> None:
    factors, shares = performance_profile(section)
    tasks = [("f1", 1), ("f1", 2), ("f2", 1)]
    times = {
        (run.key.method, run.key.problem, run.key.instance): running_times(
            *zip(*(run.trajectory or ((60, np.inf),)), strict=True)
        )
        for run in RUNS
    }
    never = np.full(TARGETS.size, np.inf)
    for row, method in enumerate("abc"):
        for point in (0, 60, 200, -1):
            count = 0
            for task in tasks:
                for place in range(TARGETS.size):
                    mine = times.get((method, *task), never)[place]
                    best = min(times.get((m, *task), never)[place] for m in "abc")
                    count += mine < np.inf and mine <= factors[point] * best
            expected = count / (len(tasks) * TARGETS.size)
            np.testing.assert_allclose(shares[row, point], expected)
    assert factors[0] == 1 and np.all(np.diff(shares) >= 0)


def test_a_data_profile_counts_simplex_gradients(section: Section) -> None:
    # f_0 is 9 on (f1, 1), 8 on (f1, 2), 6 on (f2, 1); a tenth of it was reached
    # by a after 6 and 9 evaluations, by b after 3, 18 and 8, by c never; D + 1 is 3
    budgets, shares = data_profile(section, 0.1)
    assert budgets[-1] == 20
    for row, times in enumerate(([2, 3], [1, 6, 8 / 3], [])):
        expected = [sum(time <= budget for time in times) / 3 for budget in budgets]
        np.testing.assert_allclose(shares[row], expected)


def test_a_medians_interval_is_that_of_the_bootstrap() -> None:
    values = np.arange(15.0)
    low, high = median_interval_places(15)
    found = bootstrap_interval(values, np.median, resamples=20_000)
    assert (values[low], values[high]) == found[1:]


def test_the_page_shows_profiles_where_methods_can_be_compared() -> None:
    assert page(RUNS, []).count("performance, all targets</text>") == 1
    alone = page(RUNS[:2], [])
    assert "performance, all" not in alone and "data, tolerance 1e-07" in alone


def test_every_figure_of_the_page_is_a_file(tmp_path: Path) -> None:
    key = RunKey("digits", "digits", 2410, 1, "mezo", 300, 0, "jax")
    pairs = ((100, 0.5), (200, 0.25))
    runs = [Run(key, {}, 200, "budget", 0.1, 0.0, pairs)]
    runs.append(runs[0]._replace(key=key._replace(method="open_es")))
    drawn, dots = write_figures(runs, tmp_path / "new")
    assert page(runs, []).count("<figure>") == 1
    place = tmp_path / "new/digits_2410D_300_jax/accuracy_accuracy_as_it_learns.svg"
    assert (drawn, dots.suffix) == (place, ".png")
    assert dots.read_bytes()[:4] == b"\x89PNG"
    words = "".join(xml.parse(drawn).getroot().itertext()).split()
    assert {"learns", "evaluations", "accuracy", "mezo", "open_es"} <= set(words)
    before = drawn.read_bytes()
    write_figures(runs, tmp_path / "new", ["svg"])
    assert drawn.read_bytes() == before


def test_figures_have_the_colours_of_the_page() -> None:
    text = page(RUNS, [])
    for number, colour in enumerate(COLOURS):
        assert f"--c{number}: light-dark({colour}" in text

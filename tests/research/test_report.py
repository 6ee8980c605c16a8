"""Summary, tables, figures and the page, from runs made up by hand."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gfopt import registry
from gfopt.research.figures import Axis, Chart, Line
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.report import page, write_report
from gfopt.research.results import ResultStore
from gfopt.research.statistics import TARGETS, bootstrap_interval
from gfopt.research.summary import (
    BBOB_GROUPS,
    convergence,
    ecdf_curve,
    sections,
    share_of_targets,
    time_to_solve,
)
from gfopt.research.tables import tables


def _run(
    method: str,
    problem: str = "f1",
    instance: int = 1,
    trajectory: tuple = ((10, 50.0), (40, 1e-9)),
    evaluations: int = 40,
    **key,
) -> Run:
    fields = {"suite": "bbob", "dimension": 2, "budget": 200, "seed": 0} | key
    place = RunKey(
        problem=problem, instance=instance, method=method, evaluator="jax", **fields
    )
    options = {"sigma": 2.0, "noise": "<made & up>"}
    run = Run(place, options, evaluations, "target", 0.5, 1.0, trajectory)
    return run._replace(optimum=79.5, population_size=6, tuning="the best of 576")


def _digits(method: str, instance: int, *errors: float) -> Run:
    trajectory = tuple((100 * i, error) for i, error in enumerate(errors, 1))
    key = {"suite": "digits", "dimension": 2410, "budget": 300}
    return _run(method, "digits", instance, trajectory, 100 * len(errors), **key)


def _atari(method: str, instance: int, *scores: float, game: str = "frostbite") -> Run:
    trajectory = tuple((1000 * i, -score) for i, score in enumerate(scores, 1))
    key = {"suite": "atari", "dimension": 46_218, "budget": 2000}
    run = _run(method, game, instance, trajectory, 40, **key)
    return run._replace(key=run.key._replace(evaluator="ale-tiny"))


SOLVED = _run("cma_es")
HALF = _run("open_es", trajectory=((10, 50.0), (100, 1e-3)), evaluations=200)
NOTHING = _run("open_es", instance=2, trajectory=(), evaluations=200)
RUNS = [
    SOLVED,
    _run("cma_es", instance=2),
    HALF,
    NOTHING,
    _run("cma_es", problem="f20"),
    _run("cma_es", problem="f20", instance=2),
    _run("open_es", problem="f20", dimension=3, budget=300),
    _digits("open_es", 1, 0.5, 0.25, 0.125),
    _digits("open_es", 2, 0.75, 0.5, 0.375),
    _digits("mezo", 1, 0.5, 0.5, 0.5),
]


def test_sections_hold_what_may_be_compared() -> None:
    found = sections(RUNS)
    assert [(s.suite, s.dimension, s.budget, len(s.runs)) for s in found] == [
        ("bbob", 2, 200, 6),
        ("bbob", 3, 300, 1),
        ("digits", 2410, 300, 3),
    ]
    # in the order of the registry; what it does not know comes last
    names = ["zzz", "mezo", "open_es", "cma_es"]
    (section,) = sections([_run(name) for name in names])
    known = [name for name in registry.METHODS if name in names]
    assert section.methods == [*known, "zzz"]


def test_share_of_targets_and_its_interval() -> None:
    # 1e2 to 50 is 2 of the 51 targets, to 1e-3 it is 26; nothing is 0
    assert share_of_targets([SOLVED]).estimate == 1
    np.testing.assert_allclose(share_of_targets([HALF]).estimate, 26 / 51)
    both = share_of_targets([HALF, NOTHING])
    np.testing.assert_allclose(both.estimate, 13 / 51)
    assert both.low == 0 and both.high == 26 / 51
    # what is drawn is instances with all their functions: no spread, no interval
    runs = [HALF, HALF._replace(key=HALF.key._replace(instance=2))]
    runs += [_run("open_es", problem="f8", instance=i) for i in (1, 2)]
    mean = (26 / 51 + 1) / 2
    np.testing.assert_allclose(share_of_targets(runs), 3 * [mean])
    # an instance that one function lacks leaves a hole, not a zero
    np.testing.assert_allclose(share_of_targets(runs[:-1])[1:], [26 / 51, 1], atol=0.25)


def test_time_to_solve_counts_what_failures_cost() -> None:
    assert time_to_solve([SOLVED]) == (20, 1)
    assert time_to_solve([SOLVED, HALF]) == ((40 + 200) / 2, 1)
    assert time_to_solve([HALF, NOTHING]) == (math.inf, 0)
    assert time_to_solve([HALF], target=1.0) == (50, 1)


def test_the_ecdf_counts_every_target_of_every_run() -> None:
    budgets, shares = ecdf_curve([SOLVED, NOTHING])
    assert budgets[0] == 1 and budgets[-1] == 100
    at = {n: shares[np.argmin(abs(budgets - n))] for n in (4.5, 10, 30, 100)}
    assert at[4.5] == 0
    np.testing.assert_allclose([at[10], at[30], at[100]], [2 / 102, 0.5, 0.5])
    assert np.all(np.diff(shares) >= 0)


def test_convergence_is_the_median_of_the_best_in_its_interval() -> None:
    values = [16.0, 8.0, 4.0, 2.0]
    runs = [
        _run("cma_es", instance=i, trajectory=((6, 32.0), (20, v)), evaluations=20 + i)
        for i, v in enumerate(values)
    ]
    curve = convergence(runs)
    assert curve is not None
    assert curve.evaluations[0] == 6 and curve.evaluations[-1] == 23
    assert curve.median[0] == 32
    # runs that have ended keep their last value
    assert (curve.low[-1], curve.median[-1], curve.high[-1]) == (2, 4, 16)
    assert convergence([runs[0], NOTHING]) is None


def test_tables_say_what_the_numbers_are() -> None:
    bbob, functions, small, _, digits = tables(RUNS)
    assert bbob.title == "BBOB in 2-D, 100 evaluations per dimension"
    names = [row[0] for row in bbob.rows]
    assert sorted(names) == ["cma_es", "open_es"]
    row = dict(zip(bbob.columns, bbob.rows[names.index("cma_es")], strict=True))
    assert row["targets"] == "1.000" and row["solved"] == "4 of 4"
    assert row["evaluations"] == "160" and row["run s"] == "2.0"
    assert row["memory MB"] == "-"
    kinds = {1: (5_000_000, "planned"), 2: (412_345_678, "resident")}
    both = [
        _run("cma_es", instance=i)._replace(memory=size, memory_kind=kind)
        for i, (size, kind) in kinds.items()
    ]
    assert tables(both)[0].rows[0][-1] == "5 planned, 412 resident"
    # cma_es is first on both functions; open_es ran on f1 only, and is last
    assert row["rank"] == "1.00" and row["failures"] == "0"
    assert "told apart by 1.39 (Nemenyi, 5 %, 2 problems)" in bbob.note
    assert "not run on the same problems" in bbob.note
    assert "not run on the same problems" not in small.note
    assert [row[0] for row in functions.rows] == ["f1 sphere", "f20 Schwefel"]
    cells = dict(zip(functions.columns, functions.rows[1], strict=True))
    assert cells["cma_es"].split() == ["20", "1.00"] and cells["open_es"] == "-"
    names = [row[0] for row in digits.rows]
    row = dict(zip(digits.columns, digits.rows[names.index("open_es")], strict=True))
    assert row["held-out accuracy"] == "0.750" and row["runs"] == "2"
    low, high = map(float, row["interval"].split(" .. "))
    expected = bootstrap_interval([0.875, 0.625])
    np.testing.assert_allclose((low, high), expected[1:], atol=5e-4)
    # one run has no interval
    assert digits.rows[names.index("mezo")][2] == "-"


VOID = {"meta", "link", "br", "img", "input", "hr"}


class _Page(HTMLParser):
    """Checks that every element is closed in order; notes what is in the page."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag, attrs) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data) -> None:
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html() -> str:
    session = {
        "started": "2030-01-01 00:00:00",
        "command": "gfopt bench --methods '<b>&'",
        "versions": {"gfopt": "9"},
        "machine": {"cores": 2},
    }
    return page(RUNS, [session])


def test_the_page_is_well_formed_and_needs_nothing_else(html: str) -> None:
    found = _Page(html)
    assert found.open == []
    tags = {tag for tag, _, _ in found.attributes} | set(re.findall(r"<(\w+)", html))
    assert not tags & {"link", "img", "iframe", "object", "use", "image"}
    assert "http" not in html and "//" not in html
    assert "url(" not in html and "@import" not in html
    for _, name, value in found.attributes:
        assert name not in {"src", "href", "xlink:href"}, value
        # every number of a path is one
        if name in {"d", "x", "y", "points"}:
            assert not re.search("nan|inf", value), value


def test_the_page_holds_every_method_and_where_it_came_from(html: str) -> None:
    text = _Page(html).text()
    for word in (
        *{run.key.method for run in RUNS},
        "f20 Schwefel",
        "separable",
        "weakly structured",
        "Digits: a network of 2,410 weights",
        "10 runs of 3 methods",
        "6 sigma = 2.0, noise = <made & up> the best of 576",
        "gfopt bench --methods '<b>&'",
        "cores 2",
    ):
        assert word in text, word
    assert "multi-modal" not in text  # no such function was run


MARKUP = st.text(st.sampled_from("<>&\"'/= ab"), max_size=9) | st.sampled_from(
    [
        "</script><b>",
        "</style>",
        "<!--",
        "]]>",
        "<img onerror=x>",
        "' on=x '",
        '" on="x',
    ]
)


@hypothesis.settings(max_examples=8)
@hypothesis.given(method=MARKUP, suite=MARKUP, problem=MARKUP, command=MARKUP)
def test_names_are_text_whatever_they_hold(
    method: str, suite: str, problem: str, command: str
) -> None:
    def elements(*names: str) -> list[tuple[str, str]]:
        one, other, place, told = names
        runs = [_run(one, place, suite=other), _run("plain", place, suite=other)]
        session = {"started": told, "command": told, "versions": {"x": told}}
        found = _Page(page(runs, [session | {"machine": {"y": told}}]))
        assert found.open == []
        return [(tag, name) for tag, name, _ in found.attributes]

    names = f"m{method}", f"s{suite}", f"p{problem}", f"c{command}"
    assert elements(*names) == elements("m", "s", "p", "c")


def test_a_method_keeps_its_colour(html: str) -> None:
    swatches = re.findall(r'<i class="(c\d)"></i> (\w+)</th>', html)
    legends = re.findall(r'class="line (c\d)" d="M1 4H23"/></svg> (\w+)<', html)
    assert {name for _, name in swatches} == {name for _, name in legends}
    assert len({name for _, name in swatches + legends}) == len(set(swatches + legends))


def test_the_report_is_made_from_the_file_alone(tmp_path: Path) -> None:
    with ResultStore(tmp_path, create=True) as store:
        with pytest.raises(ValueError, match="holds no runs yet"):
            write_report(store)
        store.start_session("x")
        store.add(RUNS)
        path = write_report(store)
        first = path.read_text()
        assert write_report(store).read_text() == first
    assert path == tmp_path / "report.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "report.html",
        "results.sqlite",
    ]


def test_the_page_shows_runs_that_never_had_a_value() -> None:
    assert _Page(page([NOTHING], [])).open == []
    assert _Page(page([_digits("mezo", 1, 0.5)], [])).open == []


def test_groups_hold_each_function_once() -> None:
    numbers = [number for group in BBOB_GROUPS.values() for number in group]
    assert numbers == [f"f{number}" for number in range(1, 25)]


@pytest.mark.parametrize("is_log", [True, False])
@pytest.mark.parametrize("high", [0.3, 1.0, 7.0, 1e3, 2.5e6])
def test_ticks_are_round_numbers_within_the_axis(high: float, is_log: bool) -> None:
    axis = Axis("", 1e-8 if is_log else 0.0, high, is_log)
    ticks = axis.ticks(6)
    assert 2 <= len(ticks) <= 8
    assert all(axis.low <= tick * (1 + 1e-9) and tick <= high for tick in ticks)
    for tick in ticks:
        digits = f"{tick:.6e}".split("e")[0]
        assert not is_log or digits == "1.000000"
    steps = np.diff(np.log10(ticks) if is_log else ticks)
    np.testing.assert_allclose(steps, steps[0])


def test_a_line_stands_where_its_numbers_say() -> None:
    line = Line("a <b>", 8, np.array([1.0, 10, 100]), np.array([0.0, 0.5, 2.0]))
    x, y = Axis("n", 1, 100, is_log=True), Axis("v", 0, 1)
    svg = Chart("t & t", [line], x, y, width=168, height=162).svg  # 100 x 100 inside
    assert _Page(svg).open == []
    (path,) = re.findall(r'class="line c1 dashed" data-m="8" d="M([^"]+)"', svg)
    points = [tuple(map(float, p.split())) for p in path.split("L")]
    # 0 to 1 goes up from the bottom; what is beyond the axis lies on its edge
    assert points == [(50, 124), (100, 74), (150, 24)]
    assert "a &lt;b&gt;" in svg and "t &amp; t" in svg


def test_targets_end_where_the_figures_do() -> None:
    (section, *_) = sections([SOLVED])
    curve = convergence(list(section.runs))
    assert curve is not None and curve.median[-1] < TARGETS[-1]
    text = page([SOLVED], [])
    assert "10<tspan" in text and ">-8</tspan>" in text


def test_games_have_a_row_for_each_method_and_a_chart_for_each_game() -> None:
    runs = [
        _atari("deep_ga", 1, 50, 100),
        _atari("deep_ga", 2, 60, 140),
        _atari("open_es", 1, -20, 30),
        _atari("deep_ga", 1, 0, 0, game="pong"),
    ]
    (table,) = tables(runs)
    assert "tiny network of 46,218 weights, 2,000 frames" in table.title
    rows = {row[0]: row[1:4] for row in table.rows}
    assert rows == {
        "frostbite, open_es": ("30.0", "-", "1"),
        "frostbite, deep_ga": ("120.0", "100.0 .. 140.0", "2"),
        "pong, deep_ga": ("0.0", "-", "1"),
    }
    text = page(runs, [])
    assert text.count("frostbite</text>") == 1 and text.count("pong</text>") == 1


CLICKS = """
<script>
const rows = () => [...document.querySelectorAll("table")[0].tBodies[0].rows].map(
  (row) => row.cells[0].textContent.trim());
const head = document.querySelectorAll("thead th")[1];
const found = {before: rows()};
head.click();
found.ascending = rows();
head.click();
found.descending = rows();
const button = [...document.querySelectorAll("button[data-m]")].find(
  (part) => part.textContent.includes("open_es"));
const shown = () => [...document.querySelectorAll("path.line[data-m]")].filter(
  (path) => getComputedStyle(path).display !== "none").length;
found.lines = [shown()];
button.click();
found.lines.push(shown());
button.click();
found.lines.push(shown());
const parts = document.querySelectorAll("figure, table, h2, h3, .note, .legend");
const boxes = [...parts].map((part) => part.getBoundingClientRect());
found.overlaps = boxes.filter((a, i) => boxes.some((b, j) => i < j
  && a.left < b.right - 1 && b.left < a.right - 1
  && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length;
found.flat = boxes.filter((box) => box.width < 30 || box.height < 8).length;
found.columns = new Set([...document.querySelectorAll("figure")].map(
  (part) => part.getBoundingClientRect().left)).size;
const chart = document.querySelector("svg[data-x]");
const box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", {
  clientX: box.right - box.width / 20, clientY: box.top + box.height / 2}));
found.tip = document.getElementById("tip").textContent;
const ground = () => getComputedStyle(document.body).backgroundColor;
found.grounds = [ground()];
document.getElementById("theme").click();
found.grounds.push(ground());
found.wide = document.documentElement.scrollWidth > innerWidth;
document.body.textContent = "FOUND" + JSON.stringify(found) + "FOUND";
</script>
"""


@pytest.mark.parametrize(("width", "columns"), [(500, 1), (1280, 2)])
def test_a_browser_sorts_switches_off_and_reads_values(
    html, tmp_path: Path, width: int, columns: int
) -> None:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("apt install chromium")
    path = tmp_path / "page.html"
    path.write_text(html.replace("</body>", f"{CLICKS}</body>"))
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},800",
    ]
    home = f"--user-data-dir={tmp_path / 'home'}"
    command = [browser, *words, home, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.split("FOUND")[1])
    assert sorted(found["before"]) == ["cma_es", "open_es"]
    assert found["ascending"] == ["open_es", "cma_es"]  # by their shares of targets
    assert found["descending"] == ["cma_es", "open_es"]
    all_lines, fewer, again = found["lines"]
    assert 0 < fewer < all_lines == again
    # near the end of the budget cma_es has reached all targets, open_es a quarter
    at, *values = found["tip"].splitlines()
    assert at.startswith("at ") and values == ["cma_es 1", "open_es 0.255"]
    light, dark = found["grounds"]
    assert light != dark
    assert not found["wide"], "a narrow screen scrolls sideways"
    assert found["overlaps"] == found["flat"] == 0
    assert found["columns"] >= columns

"""What is typed: lists of numbers and ranges, names, single numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfopt.cli.arguments import integers, number
from gfopt.cli.bench_options import planned
from gfopt.research import plan

PIECES = st.one_of(
    st.integers(1, 24).map(lambda n: (n, n)),
    st.tuples(st.integers(1, 24), st.integers(1, 24)).map(lambda p: tuple(sorted(p))),
)
SPACE = st.sampled_from(["", " "])


@given(st.lists(st.tuples(SPACE, PIECES, SPACE), min_size=1))
def test_ranges_are_what_they_say(pieces) -> None:
    parts, expected = [], []
    for before, (first, last), after in pieces:
        text = str(first) if first == last else f"{first}-{last}"
        parts.append(before + text + after)
        expected += range(first, last + 1)
    found = integers("--functions", ",".join(parts), 1, 24)
    assert found == tuple(dict.fromkeys(expected))  # in order, each once


@given(st.text(alphabet="0123456789-, .x+e\u0663", max_size=12) | st.text(max_size=8))
def test_any_text_gives_numbers_in_bounds_or_one_refusal(text: str) -> None:
    try:
        found = integers("--functions", text, 1, 24)
    except ValueError as error:
        message = str(error)
        assert message.startswith("--functions must be numbers from 1 to 24")
    else:
        assert found and len(set(found)) == len(found)
        assert all(1 <= value <= 24 for value in found)


@given(st.text(max_size=30))
def test_a_number_is_one_in_bounds_or_refused(text: str) -> None:
    try:
        assert 0 <= number("--seed", text, 0, 9) <= 9
    except ValueError as error:
        assert str(error).startswith("--seed must be a number from 0 to 9; got ")


@given(st.lists(st.sampled_from(["mezo", "snes", "spsa"]), min_size=1))
def test_names_come_in_order_each_once(names) -> None:
    batches = planned(suite="digits", methods=" , ".join(names))
    found = [batch.competitor.name for batch in batches]
    assert found == list(dict.fromkeys(names))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "got ''"),
        ("1,,2", "got '1,,2'"),
        ("0", "got '0'"),
        ("1-25", "got '1-25'"),
        ("9" * 5000, "got '999"),
        ("7-3", "did you mean 3-7?"),
        ("Sphere", "did you mean 1, the sphere?"),
        ("3,rosenbrok", "got '3,rosenbrok'"),
        ("katsura", "did you mean 23, the Katsuura?"),
    ],
)
def test_refusals_of_ranges_help(text: str, hint: str) -> None:
    from gfopt.problems.bbob_suite.functions import BBOB_NAMES

    with pytest.raises(ValueError) as caught:
        integers("--functions", text, 1, 24, BBOB_NAMES)
    assert hint in str(caught.value) and len(str(caught.value)) < 300


def test_no_option_means_both_suites_with_the_explicit_list() -> None:
    batches = planned()
    assert batches == plan.bbob_batches() + plan.digits_batches()
    methods = {batch.competitor.name for batch in batches}
    assert methods == {"random_search", "open_es", "cma_es", "mezo"}
    assert sum(len(batch.instances) for batch in batches) == 10 * 3 * 15 + 3 * 5


def test_options_of_bbob_mean_bbob() -> None:
    for options in (
        {"functions": "1"},
        {"dimensions": "2"},
        {"budget": "10"},
        {"evaluator": "coco"},
    ):
        assert {batch.suite for batch in planned(**options)} == {"bbob"}
    assert {b.suite for b in planned(seed="3", instances="1")} == {"bbob", "digits"}
    assert [b.budget for b in planned(suite="digits", budget="64")] == [64, 64, 64]


def test_the_command_of_the_manual() -> None:
    batches = planned(
        suite="bbob",
        methods="cma_es,open_es",
        dimensions="2,5,10",
        instances="1-5",
        budget="100",
        seed="0",
    )
    assert len(batches) == 3 * 10 * 2
    assert {(b.dimension, b.budget) for b in batches} == {
        (2, 200),
        (5, 500),
        (10, 1000),
    }
    assert all(b.instances == (1, 2, 3, 4, 5) and b.seed == 0 for b in batches)


def test_options_of_atari_mean_atari() -> None:
    pytest.importorskip("ale_py", reason="pip install 'gfopt[atari]'")
    batches = planned(game="frostbite", frames="8000", instances="2")
    assert [batch.competitor.name for batch in batches] == list(plan.ATARI_METHODS)
    for batch in batches:
        assert (batch.suite, batch.problem) == ("atari", "frostbite")
        assert batch.evaluator == "ale-tiny"
        assert (batch.budget, batch.instances, batch.dimension) == (8000, (2,), 46_218)
    (batch,) = planned(game="frostbite", network="large", methods="deep_ga")
    assert batch.dimension == 4_052_658 and batch.evaluator == "ale-large"


def test_methods_that_cannot_train_networks_are_left_out_or_refused() -> None:
    both = planned(methods="cma_es,open_es")
    digits = [b.competitor.name for b in both if b.suite == "digits"]
    assert digits == ["open_es"]
    assert {b.competitor.name for b in both if b.suite == "bbob"} == {
        "cma_es",
        "open_es",
    }
    with pytest.raises(ValueError, match="D x D.*got 'cma_es'"):
        planned(suite="digits", methods="open_es,cma_es")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"suite": "bob"}, "--suite .* did you mean 'bbob'"),
        ({"evaluator": "cocco"}, "--evaluator .* did you mean 'coco'"),
        ({"methods": "cma_se"}, "--methods .* did you mean 'cma_es'"),
        ({"methods": ""}, "--methods .* got ''"),
        ({"methods": "cma_es,"}, "--methods .* got ''"),
        ({"dimensions": "1"}, "--dimensions .* from 2 to 1000"),
        ({"dimensions": "4", "evaluator": "coco"}, "--dimensions of COCO .* got 4"),
        ({"instances": "0-3"}, "--instances .* from 1 "),
        ({"budget": "0"}, "--budget .* got '0'"),
        ({"budget": "1e3"}, "--budget .* got '1e3'"),
        ({"seed": "-1"}, "--seed .* got '-1'"),
        ({"suite": "digits", "functions": "1"}, "--functions .* --suite bbob"),
        ({"suite": "digits", "evaluator": "coco"}, "--evaluator .* --suite bbob"),
        (
            {"suite": "bbob", "game": "pong"},
            "--game .* --suite atari; got --suite bbob",
        ),
        ({"functions": "1", "game": "pong"}, "--functions .* --suite bbob"),
        ({"game": "frostbit"}, "--game .* did you mean 'frostbite'"),
        ({"network": "huge"}, "--network .* 'large', 'small', 'tiny'"),
        ({"frames": "1e6"}, "--frames .* got '1e6'"),
        ({"suite": "atari", "budget": "10"}, "--budget is --frames"),
        ({"game": "pong", "methods": "cma_es"}, "D x D.*got 'cma_es'"),
        ({"methods": "beast"}, "--methods must be 'auto'"),
        ({"methods": "auto", "functions": "1"}, "methods of bbob .* got 'auto'"),
        ({"methods": "math:pi"}, "--methods math:pi must be names, .* got 3.14"),
        ({"methods": "math:exp"}, "functions of .fun, x0, budget, seed.* got"),
        ({"methods": "math:pie"}, "--methods .* imported; got 'math:pie'"),
        ({"methods": "no_such:x"}, "--methods .* imported; .* 'no_such'"),
        ({"problems": "spere"}, "--problems must be module:name; got 'spere'"),
        ({"problems": "math:gamma"}, "x0 or bounds; got <built-in function gamma>"),
        ({"problems": "a:b", "suite": "bbob"}, "--problems .* got --suite bbob"),
        ({"problems": "a:b", "functions": "1"}, "--functions .* got problems of your"),
    ],
)
def test_refusals_of_plans(options, words) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        planned(**options)

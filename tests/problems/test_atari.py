"""Atari games: what is seen, what counts, and that an episode can be played again."""

import pickle
import sys
from importlib.util import find_spec
from itertools import islice
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import gfopt
from gfopt.problems import Atari
from gfopt.problems.environments import atari, atari_emulator

needs_ale = pytest.mark.skipif(
    find_spec("ale_py") is None, reason="pip install 'gfopt[atari]'"
)
TASK = Atari("frostbite", "tiny", max_steps=12)
KEY = np.array([0, 1], np.uint32)


@pytest.fixture(scope="module")
def weights():
    return jax.tree.map(np.array, TASK.init(jax.random.key(0)))


def test_a_screen_is_reduced_by_means_over_areas():
    screen = np.random.default_rng(0).integers(0, 256, (210, 160)).astype(np.uint8)
    fine = np.kron(screen / 255, np.ones((2, 21)))  # 420 x 3360: 84 x 40 and 5 x 40
    expected = fine.reshape(84, 5, 84, 40).mean(axis=(1, 3))
    found = atari_emulator.reduced(screen)
    assert found.dtype == np.float32 and found.shape == (84, 84)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_games_keep_their_places():
    assert len(set(atari.GAMES)) == len(atari.GAMES) == 57
    assert atari.GAMES[0] == "alien" and atari.GAMES.index("frostbite") == 22


@needs_ale
def test_every_game_is_there():
    from ale_py import roms

    assert set(atari.GAMES) <= set(roms.get_all_rom_ids())


@needs_ale
def test_plays_without_gymnasium(monkeypatch):
    """Then ``import ale_py`` does not load the games' files."""
    ale_py = pytest.importorskip("ale_py")
    monkeypatch.delattr(ale_py, "roms", raising=False)
    assert atari_emulator.loaded_game.__wrapped__("pong") is not None


@needs_ale
def test_an_episode_depends_on_its_seed_alone(weights):
    first = TASK(KEY, weights)
    other = jax.tree.map(lambda leaf: leaf[::-1].copy(), weights)
    Atari("frostbite", "tiny", max_steps=40).returns([5, 6], other)
    again = TASK(KEY, weights)
    assert first[0] == again[0]
    for ours, theirs in zip(first[1], again[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert first[1].num_steps == 12 and first[1].share_cut == 1
    assert first[1].memory.shape == (128,) and first[1].memory.max() > 1


@needs_ale
def test_no_ops_come_first_and_are_at_least_one():
    game = atari_emulator.loaded_game("frostbite")
    first, many = game.begin(0), game.begin(30)
    np.testing.assert_array_equal(first, game.begin(1))
    assert first.shape == (84, 84, 4) and 0.1 < first.max() <= 1.00001
    assert np.abs(first - many).max() > 0.01
    np.testing.assert_array_equal(many[..., 0], many[..., 3])


@needs_ale
def test_a_step_is_four_frames_and_shifts_the_view():
    game = atari_emulator.loaded_game("frostbite")
    view = game.begin(100)
    frame = game.emulator.getEpisodeFrameNumber()
    _, new = game.step(view, 2)
    assert game.emulator.getEpisodeFrameNumber() == frame + 4
    np.testing.assert_array_equal(new[..., :3], view[..., 1:])
    expected = atari_emulator.reduced(game.emulator.getScreenGrayscale())
    assert np.all(new[..., 3] >= expected - 1e-6)


@needs_ale
def test_rewards_add_up_until_the_episode_ends_by_itself():
    task = Atari("breakout", "tiny", max_steps=3000, num_no_ops=1)
    weights = task.init(jax.random.key(0))
    last = weights[-1]["w"].shape[-1]
    fire, game = np.array([0.0, 1.0, 0.0, 0.0]), atari_emulator.loaded_game("breakout")
    assert last == len(game.actions) == 4
    # always fire: five balls are served and lost
    weights = jax.tree.map(np.zeros_like, weights)
    weights[-1]["b"][:] = fire
    score, aux = task(KEY, weights)
    view, total, steps = game.begin(1), 0.0, 0
    while not game.is_over:
        reward, view = game.step(view, 1)
        total, steps = total + reward, steps + 1
    assert (score, aux.num_steps, aux.share_cut) == (total, steps, 0)
    assert steps > 50


@needs_ale
def test_normalised_networks_see_a_fixed_batch(weights):
    views = atari.reference_views("frostbite")
    assert views.shape == (128, 84, 84, 4) and views is atari.reference_views(
        "frostbite"
    )
    task = Atari("frostbite", "tiny", max_steps=12, normalise=True)
    assert task(KEY, weights)[0] == task(KEY, weights)[0]


def evaluation(cut, steps, valid=True):
    cut = np.asarray(cut, np.float32)
    aux = atari.AtariEpisodes(np.full(cut.shape, steps), cut, np.zeros(128))
    return SimpleNamespace(aux=aux, valid=np.broadcast_to(valid, cut.shape))


def test_episodes_grow_when_more_than_a_share_was_cut():
    task = Atari("frostbite", max_steps=100, most_steps=300, share_cut=0.5)
    context = task.objective().context
    assert int(context.max_steps) == 100
    context = task.updated(context, evaluation([1, 0, 1, 0], 10))
    assert int(context.max_steps) == 100 and float(context.num_steps) == 40
    context = task.updated(context, evaluation([1, 1, 1, 0], 10))
    assert int(context.max_steps) == 200
    context = task.updated(context, evaluation([1, 1, 1, 1], 10))
    assert int(context.max_steps) == 300
    context = task.updated(context, evaluation([1, 1, 1, 1], 10))
    assert int(context.max_steps) == 300 and float(context.num_steps) == 160
    # what failed says nothing
    valid = [False, False, True, True]
    start = task.objective().context
    context = task.updated(start, evaluation([1, 1, 1, 0], 10, valid))
    assert int(context.max_steps) == 100 and float(context.num_steps) == 20


def test_a_fixed_length_stays():
    task = Atari("frostbite", max_steps=100)
    context = task.updated(task.objective().context, evaluation([1, 1], 100))
    assert int(context.max_steps) == 100


@needs_ale
def test_minimize_in_processes_is_the_same(weights):
    task = Atari("frostbite", "tiny", max_steps=6, most_steps=20)
    method = gfopt.DeepGA(population_size=4, num_parents=2, num_candidates=1)
    search = dict(method=method, budget=9, seed=3)  # the start and two generations
    here = gfopt.minimize(task.objective(), weights, **search)
    there = gfopt.minimize(task.objective(), weights, workers=2, **search)
    assert here.fun == there.fun and here.nfev == 9 and not here.failures
    assert int(here.context.max_steps) == 20
    assert float(here.context.num_steps) == 4 * 6 + 4 * 12
    task = pickle.loads(pickle.dumps(task))
    assert task.returns([1, 2], here.recommended).shape == (2,)


@needs_ale
def test_screens_of_an_episode(weights):
    screens = TASK.screens(1, weights)
    first, *_, last = islice(screens, 40)
    assert first.shape == (210, 160, 3) and first.dtype == np.uint8
    assert (first != last).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"game": "frostbit"}, "game.*did you mean 'frostbite'"),
        ({"network": "huge"}, "network must be one of 'large'"),
        ({"num_episodes": 0}, "num_episodes"),
        ({"max_steps": 0}, "max_steps"),
        ({"most_steps": -1}, "most_steps"),
        ({"share_cut": 1.5}, "share_cut"),
        ({"num_no_ops": 0}, "num_no_ops"),
        ({"normalise": 1}, "normalise"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Atari(**{"game": "frostbite", **options})


def test_without_ale_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r"pip install 'gfopt\[atari\]'"):
        atari_emulator.loaded_game.__wrapped__("frostbite")

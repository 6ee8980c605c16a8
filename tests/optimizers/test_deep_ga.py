"""The deep GA beside a dense loop, its lineages, and the checks G1 to G9."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt import genome
from gfopt.core.evaluate import judged
from gfopt.noise import noise
from gfopt.noise import table as noise_table
from gfopt.optimizers.deep_ga import DeepGAState, mutated

X0 = {"w": jnp.ones((3, 4)), "b": jnp.array([0.5, -0.0])}
GENERATIONS = 200


def distance(x: Any) -> jax.Array:
    return sum(jnp.sum((leaf - 0.25) ** 2) for leaf in jax.tree.leaves(x))


def same(a: Any, b: Any) -> None:
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(
            np.asarray(one).view(np.uint32), np.asarray(other).view(np.uint32)
        )


@pytest.fixture(scope="module", params=[0, 1, 2])
def searched(request: pytest.FixtureRequest) -> Any:
    """A run of 200 generations for each of three seeds."""
    optimizer = gfopt.DeepGA(
        population_size=12,
        num_parents=4,
        sigma=lambda step: 0.2 / (1 + step / 50),
        initial_std=1.0,
        max_generations=GENERATIONS,
    )
    key = jax.random.key(request.param)
    return gfopt.run(optimizer, distance, X0, key=key, generations=GENERATIONS)


def test_agrees_with_the_dense_loop() -> None:
    optimizer = gfopt.DeepGA(population_size=9, num_parents=3, sigma=0.25)
    x0 = jnp.array([1.0, -2.0, 0.5])
    state, asked, ours = optimizer.init(jax.random.key(0), x0), [], []
    step = jax.jit(lambda state, key: told(optimizer, state, optimizer.ask(key, state)))
    for generation in range(12):
        key = jax.random.key(generation)
        members = optimizer.ask(key, state).members
        asked.append((np.asarray(members.parent), np.asarray(members.seed)))
        state = step(state, key)
        ours.append((optimizer.recommend(state), state.fitness[0]))
    theirs = oracles.deep_ga(
        lambda seed: np.asarray(optimizer.noise.sample(x0, seed)),
        lambda x: float(distance(x)),
        np.asarray(x0),
        asked,
        0.25,
        3,
    )
    assert len({int(parent) for slots, _ in asked for parent in slots}) == 3
    for (x, value), (expected, wanted) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def told(optimizer: Any, state: DeepGAState, population: Any) -> DeepGAState:
    solutions = jax.vmap(lambda member: optimizer.decode(state, member))
    fitness = jax.vmap(distance)(solutions(population.members))
    found = judged(fitness, population.active, ())
    return optimizer.tell(state, population, found)[0]


def test_decoding_is_bitwise_the_cache(searched: Any) -> None:
    """G1: every parent, cold from its seeds, under scan, a plain loop and vmap."""
    optimizer, state = searched.optimizer, searched.state
    assert int(state.generation) == GENERATIONS
    for slot in range(optimizer.num_parents):
        cached = jax.tree.map(lambda leaf, slot=slot: leaf[slot], state.parents)
        found = genome.lineage(optimizer, state, slot)
        same(genome.decode(found, X0), cached)
    one = genome.lineage(optimizer, state)
    assert 20 < one.seeds.size <= GENERATIONS and one.sigmas.shape == one.seeds.shape
    tree = X0
    for seed, sigma in zip(one.seeds, one.sigmas, strict=True):
        tree = mutated(optimizer.noise, tree, jnp.asarray(seed), jnp.asarray(sigma))
    same(tree, searched.recommended)
    both = jax.vmap(lambda scale: mutated(optimizer.noise, X0, one.seeds[0], scale))
    alone = mutated(optimizer.noise, X0, one.seeds[0], one.sigmas[0])
    same(jax.tree.map(lambda leaf: leaf[1], both(jnp.full(2, one.sigmas[0]))), alone)


def test_a_saved_genome_is_the_same_elsewhere(searched: Any, tmp_path: Path) -> None:
    path = tmp_path / "elite.genome"
    genome.save(path, searched.optimizer, searched.state)
    same(genome.load(path, X0), searched.recommended)
    # the first draw is of the matrices: their values in the template do not matter
    same(genome.load(path, {**X0, "w": jnp.zeros((3, 4))}), searched.recommended)
    with pytest.raises(ValueError, match=r"^template must have the paths"):
        genome.load(path, {"w": X0["w"]})
    with pytest.raises(ValueError, match=r"^slot must be below num_parents = 4"):
        genome.save(path, searched.optimizer, searched.state, slot=4)
    program = (
        "import sys, numpy as np, jax.numpy as jnp; from gfopt import genome\n"
        "x0 = {'w': jnp.ones((3, 4)), 'b': jnp.array([0.5, -0.0])}\n"
        "x = genome.load(sys.argv[1], x0)\n"
        "np.savez(sys.argv[2], w=x['w'], b=x['b'])"
    )
    out = tmp_path / "x.npz"
    subprocess.run([sys.executable, "-c", program, path, out], check=True)
    same(dict(np.load(out)), dict(sorted(searched.recommended.items())))


def test_a_genome_is_small(tmp_path: Path) -> None:
    """G3: 4 bytes a mutation, and a fixed number for names and checksums."""
    made = genome.Genome(
        np.arange(400, dtype=np.uint32), np.float32(0.002), {"kind": "gaussian"}
    )
    assert made.nbytes == 4 * 400 + 4
    changing = made._replace(sigmas=np.ones(400, np.float32))
    assert changing.nbytes == 8 * 400
    optimizer = gfopt.DeepGA(population_size=4, num_parents=1, sigma=1e-3)
    result = gfopt.run(
        optimizer,
        lambda x: jnp.sum(x),
        jnp.ones(2),
        key=jax.random.key(0),
        generations=400,
    )
    found = genome.lineage(optimizer, result.state)
    genome.save(tmp_path / "g", optimizer, result.state)
    fixed = (tmp_path / "g").stat().st_size - 4 * found.seeds.size
    assert found.sigmas.shape == () and found.seeds.size > 300 and fixed < 200


def test_the_population_is_seeds_and_no_copies() -> None:
    """What a generation holds beside the parents: at most 16 bytes for each child."""
    optimizer = gfopt.DeepGA(population_size=50, num_parents=2)
    state = optimizer.init(jax.random.key(0), jnp.zeros(1000))
    population = optimizer.ask(jax.random.key(1), state)
    leaves = jax.tree.leaves(population)
    assert sum(leaf.nbytes for leaf in leaves) <= 16 * 50


def test_the_best_never_gets_worse(searched: Any) -> None:
    """G4: not once in 200 generations."""
    elite = np.asarray(searched.history["elite_fitness"])
    assert np.all(np.diff(elite) <= 0) and elite[-1] < elite[0] / 3
    best = np.minimum.accumulate(np.asarray(searched.history["fitness"]))
    np.testing.assert_array_equal(elite, best)


def test_one_parent_and_one_child_is_a_hill_climber() -> None:
    """G5: step by step."""
    optimizer = gfopt.DeepGA(population_size=1, num_parents=1, sigma=0.25)
    x = jnp.array([1.0, -2.0])
    state = optimizer.init(jax.random.key(3), x)
    best, moves = np.inf, 0

    @jax.jit
    def turn(state: DeepGAState, key: jax.Array) -> tuple[jax.Array, DeepGAState]:
        population = optimizer.ask(key, state)
        return population.members.seed[0], told(optimizer, state, population)

    draw = jax.jit(lambda seed: optimizer.noise.sample(x, seed))
    for step in range(30):
        seed, state = turn(state, jax.random.key(step))
        child = x + 0.25 * draw(seed)
        if distance(child) < best:
            x, best, moves = child, distance(child), moves + 1
        np.testing.assert_array_equal(optimizer.recommend(state), x)
    assert 3 < moves < 30


def test_a_second_evaluation_finds_the_truly_better() -> None:
    """G6: with f + N(0, 1), paired over 50 seeds."""

    def noisy(key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(x**2) + jax.random.normal(key)

    objective = gfopt.Objective(noisy, takes_key=True)

    def quality(trials: int) -> np.ndarray:
        optimizer = gfopt.DeepGA(
            population_size=30,
            num_parents=5,
            sigma=0.3,
            num_trials=trials,
            num_candidates=5,
        )
        steps = 2 * 10 if trials else 10

        def one(key: jax.Array) -> jax.Array:
            found = gfopt.run(
                optimizer, objective, jnp.ones(3), key=key, generations=steps
            )
            return jnp.sum(found.recommended**2)

        return np.asarray(
            jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 50))
        )

    difference = quality(0) - quality(10)
    error = difference.std(ddof=1) / np.sqrt(difference.size)
    assert difference.mean() > 3 * error


def test_candidates_are_evaluated_again() -> None:
    optimizer = gfopt.DeepGA(
        population_size=6, num_parents=3, num_candidates=2, num_trials=4
    )
    state = optimizer.init(jax.random.key(0), jnp.zeros(2))
    first = optimizer.ask(jax.random.key(1), state)
    np.testing.assert_array_equal(first.active, [True] * 6 + [False] * 2)
    fitness = jnp.array([5.0, 1.0, 2.0, 4.0, 3.0, 6.0, 0.0, 0.0])
    state, _ = optimizer.tell(state, first, judged(fitness, first.active, ()))
    assert state.waits and state.generation == 0
    again = optimizer.ask(jax.random.key(2), state)
    seeds = first.members.seed
    np.testing.assert_array_equal(again.members.seed, jnp.repeat(seeds[1:3], 4))
    # the second is better on average; one of the first's trials failed
    scores = jnp.array([jnp.nan, 9.0, 9.0, 9.0, 0.0, 1.0, 2.0, 1.0])
    state, info = optimizer.tell(state, again, judged(scores, again.active, ()))
    assert not state.waits and state.generation == 1 and info.elite_fitness == 1
    np.testing.assert_array_equal(state.fitness, [1.0, 1.0, 3.0])
    np.testing.assert_array_equal(state.lineage.seed[0], seeds[jnp.array([2, 1, 4])])
    # the elite is now the first candidate, and keeps its place by its new score only
    third = optimizer.ask(jax.random.key(3), state)
    state, _ = optimizer.tell(state, third, judged(fitness, third.active, ()))
    again = optimizer.ask(jax.random.key(4), state)
    np.testing.assert_array_equal(again.members.sigma[:4], jnp.zeros(4))
    scores = jnp.array([7.0] * 4 + [3.0] * 4)
    state, info = optimizer.tell(state, again, judged(scores, again.active, ()))
    assert info.elite_fitness == 3


def test_the_first_draw_is_scaled_by_the_layer() -> None:
    """G7: std / sqrt(fan_in) for matrices; vectors stay."""
    x0 = {"conv": jnp.ones((3, 3, 8, 40)), "w": jnp.ones((50, 60)), "b": jnp.ones(7)}
    optimizer = gfopt.DeepGA(population_size=2, num_parents=1, initial_std=0.5)
    state = optimizer.init(jax.random.key(0), x0)
    same(optimizer.recommend(state), x0)
    members = optimizer.ask(jax.random.key(1), state).members
    theta = optimizer.decode(state, jax.tree.map(lambda leaf: leaf[0], members))
    for name, fan_in in (("conv", 72), ("w", 50)):
        found, wanted = float(jnp.std(theta[name])), 0.5 / np.sqrt(fan_in)
        assert abs(found / wanted - 1) < 3 / np.sqrt(2 * theta[name].size)
    same(theta["b"], x0["b"])


def test_a_full_lineage_stops_and_stays_whole() -> None:
    optimizer = gfopt.DeepGA(
        population_size=4, num_parents=2, sigma=0.1, max_generations=5
    )
    result = gfopt.minimize(
        lambda x: jnp.sum(x**2), jnp.ones(2), method=optimizer, budget=1000
    )
    assert "max_generations" in result.message and result.nit == 5
    longer = gfopt.run(
        optimizer, distance, jnp.ones(2), key=jax.random.key(0), generations=9
    )
    found = genome.lineage(optimizer, longer.state)
    same(genome.decode(found, jnp.ones(2)), longer.recommended)
    assert longer.state.generation == 5


def test_the_noise_table_is_slices() -> None:
    """G9: bit-equal to slices of the table in NumPy."""
    table = gfopt.noise.NoiseTable(size=5000, seed=3)
    numbers, theta = np.asarray(table.table), np.zeros(14, np.float32)
    seeds = np.array([0, 4986, 4987, 2**32 - 1], np.uint32)
    tree = {"a": jnp.zeros(2), "b": jnp.zeros((3, 4))}
    for seed in seeds:
        start = int(seed) % (5000 - 14 + 1)
        theta = theta + np.float32(0.25) * numbers[start : start + 14]
        tree = table.add(tree, jnp.asarray(seed), 0.25)
    same(np.concatenate([tree["a"], tree["b"].ravel()]), theta)
    assert abs(numbers.mean()) < 0.05 and abs(numbers.std() - 1) < 0.05
    with pytest.raises(ValueError, match=r"^size must be at least the 6000"):
        table.sample(jnp.zeros(6000), seeds[0])


def test_a_genome_on_the_noise_table(tmp_path: Path) -> None:
    optimizer = gfopt.DeepGA(
        population_size=8,
        num_parents=2,
        noise=gfopt.noise.NoiseTable(size=3000, seed=1),
    )
    result = gfopt.run(optimizer, distance, X0, key=jax.random.key(0), generations=8)
    genome.save(tmp_path / "g", optimizer, result.state)
    same(genome.load(tmp_path / "g", X0), result.recommended)


def test_a_genome_in_double_precision(tmp_path: Path) -> None:
    x0 = np.array([1.0, -2.0, 0.5])
    optimizer = gfopt.DeepGA(population_size=8, num_parents=2, sigma=0.1)
    result = gfopt.minimize(distance, x0, method=optimizer, budget=80)
    genome.save(tmp_path / "g", result.optimizer, result.state)
    found = genome.load(tmp_path / "g", x0)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, result.recommended)


def test_what_is_no_genome_is_refused(tmp_path: Path) -> None:
    optimizer = gfopt.OpenES(population_size=4)
    state = optimizer.init(jax.random.key(0), X0)
    with pytest.raises(TypeError, match=r"^optimizer must be a DeepGA"):
        genome.lineage(optimizer, state)
    with pytest.raises(ValueError, match=r"^num_candidates must be at most"):
        gfopt.DeepGA(num_parents=2, num_trials=3)


@pytest.mark.parametrize("family", [noise.gaussian(), noise_table.NoiseTable(1000)])
def test_a_parent_itself_is_a_member(family: Any) -> None:
    moved = mutated(family, X0, jnp.uint32(0), jnp.float32(0))
    same(moved, X0)

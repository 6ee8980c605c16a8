"""OpenES with low-rank noise: its oracle, its gradient, models, evaluators."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from core.models import MODELS, B, T, V
from programs import travelling

import gfopt
from gfopt import shaping
from gfopt.core.evaluate import Request, decode_rows, judged
from gfopt.core.objective import Inputs, Objective
from gfopt.lazy.interpreter import interpret

FOUR = jax.make_mesh((4,), ("p",), axis_types=(jax.sharding.AxisType.Auto,))
EVALUATORS = {
    "vmapped": gfopt.vmapped(),
    "chunked": gfopt.chunked(3),
    "one by one": gfopt.chunked(1),
    "sharded": gfopt.sharded(FOUR),
    "sharded, chunked": gfopt.sharded(FOUR, gfopt.chunked(2)),
}


def test_decodes_one_by_one_but_draws_pairs():
    plain, low = gfopt.OpenES(), gfopt.OpenES(noise=gfopt.low_rank())
    assert (plain.group_size, low.group_size) == (2, 1)
    members = low.ask(jax.random.key(0), low.init(jax.random.key(0), jnp.ones(3)))[0]
    np.testing.assert_array_equal(members.seed[::2], members.seed[1::2])
    np.testing.assert_array_equal(members.sign[::2], -members.sign[1::2])


SHAPES = {"b": (4,), "v": (2, 5, 4), "w": (6, 4)}


@pytest.mark.parametrize(("rank", "antithetic"), [(1, True), (2, False)])
def test_steps_as_its_oracle(rank, antithetic):
    with jax.enable_x64(True):
        check_oracle(gfopt.low_rank(rank), rank, antithetic)


def check_oracle(noise, rank, antithetic):
    random = np.random.default_rng(0)
    x0 = {name: random.standard_normal(shape) for name, shape in SHAPES.items()}
    flat = np.concatenate([x0[name].ravel() for name in SHAPES])
    size = 6
    optimizer = gfopt.OpenES(
        population_size=size,
        sigma=0.25,
        learning_rate=0.1,
        weight_decay=0.01,
        noise=noise,
        antithetic=antithetic,
    )
    oracle = oracles.OpenES(flat, 0.25, oracles.Adam(0.1), weight_decay=0.01)

    def drawn(seed):
        """Returns the noise of one member, made entry by entry from its factors."""
        path = {name: zlib.crc32(f"{name} factors".encode()) for name in SHAPES}
        # z of a vector is dense, of a leaf that no matrix is part of
        parts = [gfopt.gaussian().sample({"b": x0["b"]}, seed)["b"]]
        for name, layers in (("v", 2), ("w", 1)):
            rows, columns = SHAPES[name][-2:]
            a, b = noise._factors(path[name], seed, 0, (layers, rows, columns))
            parts += [
                oracles.low_rank_noise(np.float64(a[i].T), np.float64(b[i].T))
                for i in range(layers)
            ]
        return np.concatenate([np.ravel(part) for part in parts])

    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    decode = jax.jit(lambda s, p: decode_rows(optimizer, s, p.members))
    state = optimizer.init(jax.random.key(0), x0)
    signs = [1, -1] * 3 if antithetic else [1] * size
    for step in range(3):
        population = ask(jax.random.key(step), state)
        seeds = np.asarray(population.members.seed)
        z = {seed: drawn(jnp.uint32(seed)) for seed in set(seeds.tolist())}
        z = [z[seed] for seed in seeds.tolist()]
        candidates = oracle.candidates(z, signs)
        rows = decode(state, population)
        found = np.concatenate([rows[name].reshape(size, -1) for name in SHAPES], 1)
        np.testing.assert_allclose(found, candidates, 1e-6, 1e-7)
        fitness = np.array([np.sum(np.abs(x - 0.3)) for x in candidates])
        oracle.tell(z, signs, fitness)
        state, _ = tell(state, population, judged(jnp.asarray(fitness), seeds >= 0, ()))
        mean = np.concatenate([np.ravel(state.mean[name]) for name in SHAPES])
        np.testing.assert_allclose(mean, oracle.theta, 1e-6, 1e-7)


@pytest.mark.parametrize(("rank", "kind"), [(1, "gaussian"), (2, "rademacher")])
def test_a_linear_objective_gives_its_gradient(rank, kind):
    # E11: unbiased for every rank; an entry of E has kurtosis 9 at most
    random = np.random.default_rng(1)
    c = jnp.asarray(random.standard_normal((2, 6, 5)), jnp.float32)
    optimizer = gfopt.OpenES(
        population_size=8192,
        sigma=0.5,
        noise=gfopt.low_rank(rank, kind=kind, axes={"w": "SRC"}),
        shaping=shaping.raw,
        transform=optax.sgd(1.0),
    )

    @jax.jit
    def moved(key):
        state = optimizer.init(key, {"w": jnp.zeros(c.shape)})
        population = optimizer.ask(key, state)
        rows = decode_rows(optimizer, state, population.members)
        fitness = jnp.einsum("psij,sij->p", rows["w"], c)
        found = judged(fitness, population.active, ())
        return -optimizer.tell(state, population, found)[0].mean["w"]

    found = moved(jax.random.key(0))
    error = np.linalg.norm(c) * np.sqrt(9 / 4096)  # 4096 pairs
    np.testing.assert_allclose(found, c, atol=4 * error)
    assert np.corrcoef(np.ravel(found), np.ravel(c))[0, 1] > 0.9


def shapes_in(program):
    """Yields the shape of every array in a program and in those within it."""
    for eqn in program.eqns:
        yield from (var.aval.shape for var in eqn.outvars)
        for inner in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


def solution_of(model):
    random = np.random.default_rng(2)
    return {
        name: jnp.asarray(random.standard_normal(shape) / 4, jnp.float32)
        for name, shape in model.weights.items()
    }


P = 10
DECODER = MODELS["decoder"]
TOKENS = jnp.asarray(np.arange(B * T).reshape(B, T) * 7 % V)


def decoder_loss(p, tokens):
    logits = DECODER.fun(p, tokens)
    return -jnp.mean(jnp.take_along_axis(logits[:, :-1], tokens[:, 1:, None], 2))


def evaluation_of(evaluator, optimizer, fun=decoder_loss):
    def evaluate(state, population, tokens):
        inputs = Inputs(args=(tokens,))
        key = jax.random.key(0)
        return evaluator(
            Request(key, Objective(fun), optimizer, state, population, inputs)
        )

    return jax.jit(evaluate)


@pytest.fixture(scope="module")
def generation():
    """An optimizer on a language model, its state, a population and its fitness."""
    optimizer = gfopt.OpenES(
        population_size=P, sigma=0.3, noise=gfopt.low_rank(dense="norm")
    )
    state = optimizer.init(jax.random.key(0), solution_of(DECODER))
    population = jax.jit(optimizer.ask)(jax.random.key(1), state)

    def alone(member):
        return interpret(decoder_loss)(optimizer.decode(state, member), TOKENS)

    expected = [
        float(jax.jit(alone)(jax.tree.map(lambda leaf, i=i: leaf[i], population[0])))
        for i in range(P)
    ]
    assert np.std(expected) > 1e-3
    return optimizer, state, population, expected


@pytest.mark.parametrize("name", EVALUATORS)
def test_evaluators_agree_and_make_nothing_dense(generation, name):
    optimizer, state, population, expected = generation
    evaluate = evaluation_of(EVALUATORS[name], optimizer)
    with gfopt.lazy.count_materialisations() as made:
        found = evaluate(state, population, TOKENS)
    assert made.list == []
    np.testing.assert_allclose(found.fitness, expected, rtol=1e-5)


def test_no_array_has_a_member_and_a_matrix(generation):
    optimizer, state, population, _ = generation
    evaluate = evaluation_of(EVALUATORS["vmapped"], optimizer)
    told = judged(jnp.arange(P) / P, population.active, ())
    programs = [
        jax.make_jaxpr(evaluate)(state, population, TOKENS),
        jax.make_jaxpr(optimizer.tell)(state, population, told),
    ]
    for program in programs:
        seen = {tuple(sorted(shape)) for shape in shapes_in(program.jaxpr)}
        for name, shape in DECODER.weights.items():
            for count in (P, P // 2):
                is_made = tuple(sorted((count, *shape))) in seen
                assert not is_made or name == "norm"


def test_only_scalars_travel_between_devices(generation):
    optimizer, state, population, _ = generation
    evaluate = evaluation_of(EVALUATORS["sharded"], optimizer)
    sizes = travelling(evaluate.lower(state, population, TOKENS).compile())
    assert sizes and max(sizes) <= P + 2  # padded to a multiple of four devices


def test_learns_in_bfloat16():
    """Only the factors are a member's own, and they stay in float32."""
    random, dtype = np.random.default_rng(3), jnp.bfloat16
    x = jnp.asarray(random.standard_normal((16, 8)), dtype)
    y = jnp.sign(x[:, :1] * x[:, 1:2])
    weights = {
        "w": jnp.asarray(random.standard_normal((8, 16)) / 3, dtype),
        "v": jnp.asarray(random.standard_normal((16, 2)) / 4, dtype),
    }

    def loss(p):
        return jnp.mean((jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"], 1) - y[:, 0]) ** 2)

    optimizer = gfopt.OpenES(
        population_size=64, sigma=0.1, learning_rate=0.1, noise=gfopt.low_rank()
    )
    with gfopt.lazy.count_materialisations() as made:
        key = jax.random.key(0)
        result = gfopt.run(optimizer, loss, weights, key=key, generations=100)
    assert made.list == []
    assert result.recommended["w"].dtype == dtype
    assert loss(result.recommended) < 0.5 < loss(weights)


# -- models of other libraries


def check_model(apply, weights, noise, *inputs):
    """Runs a population lazily; compares it with the same one made dense."""
    optimizer = gfopt.OpenES(population_size=4, sigma=0.1, noise=noise)

    def both(key):
        state = optimizer.init(key, weights)
        members = optimizer.ask(key, state).members
        rows = decode_rows(optimizer, state, members)
        with gfopt.lazy.count_materialisations() as made:
            found = jax.vmap(
                lambda m: interpret(apply)(optimizer.decode(state, m), *inputs)
            )(members)
        assert made.list == []
        return found, jax.vmap(lambda row: apply(row, *inputs))(rows)

    found, expected = jax.jit(both)(jax.random.key(0))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)
        assert np.std(np.asarray(a), axis=0).max() > 1e-3


def test_flax_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="pip install flax")

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.embed = nnx.Embed(11, 8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.out = nnx.Linear(8, 12, rngs=rngs)

        def __call__(self, image, tokens):
            x = nnx.relu(self.conv(image)).reshape(-1, 8)
            x = self.norm(x + self.embed(tokens))
            x = x + self.attention(x)
            return self.out(x), self.embed.attend(x)

    graph, state = nnx.split(Network(nnx.Rngs(0)))
    noise = gfopt.low_rank(
        dense="*bias*",
        axes={
            "attention/out/*": "RRC",
            "attention/*/kernel*": "RCC",
        },
    )
    image = jnp.linspace(-1, 1, 48).reshape(4, 4, 3)
    tokens = jnp.arange(16) * 7 % 11
    check_model(
        lambda state, *x: nnx.merge(graph, state)(*x), state, noise, image, tokens
    )


def test_equinox():
    eqx = pytest.importorskip("equinox", reason="pip install equinox")
    keys = jax.random.split(jax.random.key(0), 4)
    model = {
        "conv": eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0]),
        "embed": eqx.nn.Embedding(11, 8, key=keys[1]),
        "attention": eqx.nn.MultiheadAttention(2, 8, key=keys[2]),
        "mlp": eqx.nn.MLP(8, 5, 7, 1, jax.nn.gelu, key=keys[3]),
    }
    arrays, rest = eqx.partition(model, eqx.is_array)

    def apply(arrays, image, tokens):
        model = eqx.combine(arrays, rest)
        x = jax.nn.relu(model["conv"](image)).reshape(8, -1).T
        x = x + jax.vmap(model["embed"])(tokens)
        x = x + model["attention"](x, x, x)
        return jax.vmap(model["mlp"])(x)

    image = jnp.linspace(-1, 1, 48).reshape(3, 4, 4)
    # Equinox keeps the output features first, and biases of convolutions as [o, 1, 1]
    noise = gfopt.low_rank(axes={"conv/weight": "RCCC"}, dense="*bias")
    check_model(apply, arrays, noise, image, jnp.arange(16) * 7 % 11)


def test_dictionaries_of_modules_as_haiku_has_them():
    weights = {
        "mlp/~/linear_0": {"w": jnp.ones((6, 8)) / 6, "b": jnp.zeros(8)},
        "mlp/~/linear_1": {"w": jnp.ones((8, 7)) / 8, "b": jnp.zeros(7)},
    }

    def apply(p, x):
        for layer in p.values():
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return x

    noise = gfopt.low_rank(exclude="mlp/~/linear_1/b")
    check_model(apply, weights, noise, jnp.linspace(0, 1, 12).reshape(2, 6))

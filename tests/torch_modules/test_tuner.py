"""Modules are tuned in place, as the same method tunes the same tree in JAX."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gfopt

torch = pytest.importorskip("torch", reason="pip install 'gfopt[torch]'")

import gfopt.torch  # noqa: E402
from gfopt.torch import Tuner, from_tree, perturbed, replay, to_tree  # noqa: E402
from gfopt.torch.noises import Noises  # noqa: E402
from gfopt.torch.trees import leaves_of  # noqa: E402
from gfopt.types import Chain, Estimate  # noqa: E402

nn = torch.nn
SIGNS = gfopt.rademacher()
THIN = gfopt.low_rank(exclude="1/*")
PLAIN = {"transform": optax.sgd(1.0)}
X = torch.linspace(-1, 1, 24).reshape(8, 3)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Returns a small network with matrices, vectors and a buffer."""
    torch.manual_seed(0)
    layers = nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 1)
    return nn.Sequential(*layers).to(dtype).eval()


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """Returns the closure of a regression."""
    return lambda: ((model(X.to(dtype)).float() - X.sum(1, keepdim=True)) ** 2).mean()


def jax_loss(w: Any) -> jax.Array:
    """The same network in JAX, on the tree of ``to_tree``."""
    x = jnp.array(X.numpy())
    h = x @ w["0"]["weight"].T + w["0"]["bias"]
    h = h / jnp.sqrt(1 + 1e-5) * w["1"]["weight"] + w["1"]["bias"]
    y = jnp.tanh(h) @ w["3"]["weight"].T + w["3"]["bias"]
    return jnp.mean((y - x.sum(1, keepdims=True)) ** 2)


def same(a: Any, b: Any) -> None:
    """Asserts that two trees have all bits in common."""
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(left).dtype == np.asarray(right).dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.mark.parametrize(
    "method",
    [
        gfopt.MeZO(0.05, noise=SIGNS),
        gfopt.MeZO(lambda step: 0.05 / (1 + step), population_size=4),
        gfopt.SparseMeZO(0.05, moving=0.5),
        gfopt.FZOO(1e-3, population_size=5),
        gfopt.SPSA(0.05),
        gfopt.MeZO(0.02, noise=gfopt.low_rank(2, kind="rademacher")),
        gfopt.OpenES(8, learning_rate=0.02, weight_decay=0.1, noise=SIGNS, **PLAIN),
        gfopt.OpenES(6, 0.1, lambda step: 0.05 / (1 + step), noise=THIN, **PLAIN),
        gfopt.ARS(6, noise=SIGNS, num_elites=2),
    ],
    ids=[
        *("signs", "normals_with_schedule", "sparse_mezo", "fzoo", "spsa"),
        *("low_rank", "open_es_with_decay", "open_es_low_rank", "ars"),
    ],
)
def test_a_run_is_that_of_jax(method: Any) -> None:
    model = network()
    start = to_tree(model)
    tuner = Tuner(model, method, seed=3)
    first = [tuner.step(loss_of(model)) for _ in range(12)][0]
    result = gfopt.minimize(
        jax_loss, start, method=method, seed=3, budget=12 * method.population_size + 1
    )
    assert result.nit == tuner.num_steps == 12
    assert abs(first - float(jax_loss(start))) < 0.1
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), start, result.recommended)
    if method.noise == THIN:
        assert not max(jax.tree.leaves(moved.pop("1")))
    assert min(jax.tree.leaves(moved)) > 1e-4
    # losses differ in their last digits, and so do slopes
    for mine, theirs in zip(
        jax.tree.leaves(to_tree(model)),
        jax.tree.leaves(result.recommended),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)


def test_one_log_replays_in_torch_and_in_jax(tmp_path: Path) -> None:
    model = network()
    before, start = copy.deepcopy(model), to_tree(model)
    method = gfopt.MeZO(0.05, noise=SIGNS)
    loss = loss_of(model)
    with Tuner(model, method, log=tmp_path / "torch.log") as tuner:
        for step in range(20):
            tuner.step(loss if step != 7 else lambda: math.nan * loss())
    same(gfopt.replay(start, tmp_path / "torch.log"), to_tree(model))
    again = copy.deepcopy(before)
    replay(again, tmp_path / "torch.log")
    same(to_tree(again), to_tree(model))

    log = tmp_path / "jax.log"
    result = gfopt.minimize(jax_loss, start, method=method, budget=41, log=log)
    replay(before, log)
    same(to_tree(before), result.recommended)
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="parameters must be what the run started"):
        replay(other, log)
    from_tree(again, result.recommended)
    same(to_tree(again), result.recommended)
    with pytest.raises(ValueError, match="0.weight: nothing here"):
        from_tree(other, result.recommended)


@pytest.mark.parametrize(
    "method",
    [gfopt.OpenES(6, 0.1, 0.05, noise=THIN, **PLAIN), gfopt.DeepGA(6, noise=SIGNS)],
    ids=["open_es", "deep_ga"],
)
def test_a_log_of_values_replays_any_method(method: Any, tmp_path: Path) -> None:
    model = network()
    before, start = copy.deepcopy(model), to_tree(model)
    tuner, loss = Tuner(model, method, seed=3), loss_of(model)
    for step in range(6):
        tuner.step(loss if step != 4 else lambda: math.nan * loss())
    path = tmp_path / "values.log"
    tuner.value_log.save(path)
    tuner.write_recommended()
    again = copy.deepcopy(before)
    replay(again, path, method)
    same(to_tree(again), to_tree(model))
    for mine, theirs in zip(
        jax.tree.leaves(gfopt.replay(start, path, method)),
        jax.tree.leaves(to_tree(model)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)

    # and a run in JAX, whose function keeps its values
    values: list[float] = []

    def kept(w: Any) -> float:
        values.append(float(jax_loss(w)))
        return values[-1]

    options = {"method": method, "seed": 5, "budget": 4 * 6 + 1}
    result = gfopt.minimize(kept, start, **options)
    log = gfopt.ValueLog(np.float32(values[1:]).reshape(4, 6), seed=5)
    replay(before, log, method)
    for mine, theirs in zip(
        jax.tree.leaves(to_tree(before)),
        jax.tree.leaves(result.recommended),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="of 6 candidates"):
        Tuner(before, method).tell([1.0])
    with pytest.raises(ValueError, match="parameters must be what the run started"):
        replay(nn.Linear(2, 2), path, method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_bit_changes_at_learning_rate_0(dtype: torch.dtype) -> None:
    model = network(dtype)
    kept = copy.deepcopy(model.state_dict())
    tuner = Tuner(model, gfopt.MeZO(0.0, eps=1e-2, noise=SIGNS))
    for _ in range(30):
        tuner.step(loss_of(model, dtype))
    assert tuner.info["projected_gradient"] != 0
    assert all(torch.equal(kept[name], now) for name, now in model.state_dict().items())


def test_narrow_weights_step_by_stochastic_rounding_as_in_jax() -> None:
    model = network(torch.bfloat16)
    start = to_tree(model)
    method = gfopt.MeZO(1e-3, noise=SIGNS, rounding="stochastic")
    tuner = Tuner(model, method)
    for _ in range(5):
        tuner.step(loss_of(model, torch.bfloat16))
    same(gfopt.replay(start, tuner.replay_log), to_tree(model))


class Everything(nn.Module):
    """Uses weights in many ways: tied, looked up, convolved, recurrent, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 8)
        self.wide = nn.Linear(8, 200_000 // 8)  # in blocks, with the bound below
        self.head = nn.Linear(8, 300, bias=False)
        self.head.weight = self.table.weight
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.table(tokens) * self.scale
        h = h + self.convolution(h.mT).mT
        h = self.norm(h + self.recurrent(h)[0])
        h = h + self.attention(h, h, h, need_weights=False)[0] @ self.head.weight[:8]
        return self.head(h).logsumexp(-1) + self.wide(h).mean(-1)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_every_function_sees_the_perturbed_weights(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gfopt.torch.perturbation.BLOCK", 1 << 16)
    torch.manual_seed(0)
    model = Everything().eval()
    assert len(to_tree(model)["table"]) == 1 and "head" not in to_tree(model)
    tokens = torch.arange(10).reshape(2, 5)
    with torch.no_grad():
        plain = model(tokens)
        with perturbed(model, 5, 0.1, kind) as noise:
            found = model(tokens)
        dense = copy.deepcopy(model)
        moved = getattr(gfopt, kind)().add(to_tree(model), np.uint32(5), 0.1)
        from_tree(dense, moved)
        torch.testing.assert_close(found, dense(tokens), rtol=1e-4, atol=1e-4)
        assert torch.equal(model(tokens), plain) and not torch.equal(found, plain)
    assert noise.seen == {id(p) for p in model.parameters()}


THIN_KINDS = [
    gfopt.low_rank(1),
    gfopt.low_rank(2, kind="rademacher", axes={"wide/weight": "RC"}),
    gfopt.low_rank(3, dense="attention/*", exclude="wide/*", axes={"conv*t": "RRC"}),
]


@pytest.mark.parametrize("family", THIN_KINDS, ids=["rank_1", "signs", "patterns"])
def test_low_rank_noise_is_that_of_jax(
    family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gfopt.torch.low_rank.BLOCK", 1 << 14)
    monkeypatch.setattr("gfopt.torch.low_rank.FACTORS", 1 << 9)
    torch.manual_seed(0)
    model = Everything().eval()
    tree, tokens = to_tree(model), torch.arange(10).reshape(2, 5)
    noises = Noises(family, leaves_of(model))
    chain = Chain(np.array([5], np.uint32), np.array([0.125]))
    with torch.no_grad():
        with noises.seen(chain):
            found = model(tokens)
        dense = copy.deepcopy(model)
        from_tree(
            dense, gfopt.lazy.materialise(family.add(tree, chain.seeds[0], 0.125))
        )
        torch.testing.assert_close(found, dense(tokens), rtol=1e-4, atol=1e-4)
    # a step is a product of the factors, in parts
    seeds = np.arange(40, 53, dtype=np.uint32)
    slopes = np.linspace(-1, 1, 13, dtype=np.float32)
    noises.move(Estimate(seeds, slopes, True), 0.5)
    expected = family.add_weighted(tree, seeds, -0.5 * slopes)
    for mine, theirs in zip(
        jax.tree.leaves(to_tree(model)), jax.tree.leaves(expected), strict=True
    ):
        atol = 1e-5 if family.kind == "rademacher" else 2e-3
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_deep_ga_searches_chains_of_seeds_as_in_jax(dtype: torch.dtype) -> None:
    model = network(dtype)
    start, kept = to_tree(model), copy.deepcopy(model)
    method = gfopt.DeepGA(12, num_parents=3, sigma=0.125, noise=SIGNS)
    tuner = Tuner(model, method, seed=3)
    loss = loss_of(model, dtype)
    for _ in range(8):
        tuner.step(loss)
    same(to_tree(model), start)  # nothing is written while it searches
    with tuner.recommended(), torch.no_grad():
        elite = loss().item()
    assert abs(elite - tuner.info["elite_fitness"]) < 1e-6 and elite < loss().item()
    genome = gfopt.genome.lineage(method, tuner.state)
    assert len(genome.seeds) > 3
    tuner.write_recommended()
    same(gfopt.genome.decode(genome, start), to_tree(model))
    with pytest.raises(RuntimeError, match="before write_recommended"):
        tuner.step(loss)
    if dtype == torch.float32:
        options = {"method": method, "seed": 3, "budget": 8 * 12 + 1}
        result = gfopt.minimize(jax_loss, start, **options)
        same(result.recommended, to_tree(model))
    replay(kept, genome)
    same(to_tree(kept), to_tree(model))
    with pytest.raises(ValueError, match="drawn anew"):
        replay(kept, genome._replace(sigmas=np.float32(-1)))


def test_groups_frozen_parameters_and_buffers() -> None:
    model = network()
    model[1].requires_grad_(False)
    kept = copy.deepcopy(model.state_dict())
    groups = [
        {"params": model[0].named_parameters("first"), "learning_rate": 0.0},
        {"params": [*model[1].named_parameters(), *model[3].named_parameters("last")]},
    ]
    tuner = Tuner(groups, gfopt.MeZO(0.05))
    tuner.step(loss_of(model))
    moved = {n for n, now in model.state_dict().items() if not kept[n].equal(now)}
    assert moved == {"3.weight", "3.bias"}
    with pytest.raises(ValueError, match="learning rate to be logged"):
        _ = tuner.replay_log


def test_a_state_goes_on() -> None:
    first, second = network(), network()
    method = gfopt.SPSA(0.05)
    whole, part = Tuner(first, method), Tuner(second, method)
    for _ in range(3):
        whole.step(loss_of(first))
        part.step(loss_of(second))
    rest = Tuner(second, method)
    rest.load_state_dict(part.state_dict())
    whole.step(loss_of(first))
    rest.step(loss_of(second))
    same(to_tree(first), to_tree(second))
    assert len(rest.replay_log) == 4
    with pytest.raises(ValueError, match="seed and method"):
        Tuner(second, method, seed=1).load_state_dict(part.state_dict())
    with pytest.raises(ValueError, match="seed and method"):
        Tuner(second, gfopt.SPSA(0.1)).load_state_dict(part.state_dict())
    with pytest.raises(ValueError, match="seed and method"):
        rest.load_state_dict({"key": part.state_dict()["key"]})


def test_lora_alone_is_tuned() -> None:
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = network()
    config = peft.LoraConfig(r=2, target_modules=["0", "3"])
    wrapped = peft.get_peft_model(model, config)
    kept = {name: p.clone() for name, p in wrapped.named_parameters()}
    tuner = Tuner(wrapped, gfopt.MeZO(2e-3, noise=SIGNS))
    losses = [tuner.step(loss_of(wrapped)) for _ in range(30)]
    moved = {n for n, p in wrapped.named_parameters() if not torch.equal(kept[n], p)}
    assert moved == {name for name in kept if "lora_" in name}
    assert losses[-1] < losses[0]


def test_failures_and_refusals() -> None:
    model = network()
    kept = to_tree(model)
    tuner = Tuner(model, gfopt.MeZO(0.05))
    assert math.isnan(tuner.step(lambda: math.inf * model(X).mean()))
    assert tuner.info["skipped"] and tuner.num_steps == 1
    for closure, kind, text in [
        (lambda: model(X), TypeError, "closure must return one number"),
        (lambda: 1 / 0, ZeroDivisionError, "division"),
        (lambda: 1.0, RuntimeError, "closure must use the parameters"),
    ]:
        with pytest.raises(kind, match=text):
            tuner.step(closure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions call it deprecated
        scripted = torch.jit.trace(model, X, check_trace=False)
    with pytest.raises(RuntimeError, match="scripted"):
        tuner.step(lambda: scripted(X).mean())
    same(to_tree(model), kept)
    for parameters, method, kind, text in [
        (model, "mezo", TypeError, "method must be a gfopt method whose"),
        (model, gfopt.QZO(), TypeError, "noise on one base.*got QZO"),
        (model, gfopt.CMAES(), TypeError, "noise on one base.*got CMAES"),
        (model, gfopt.OpenES(), ValueError, r"optax.sgd\(1.0\)"),
        (model, gfopt.MeZO(transform=optax.sign_sgd(1.0)), ValueError, "optax.sgd"),
        (model, gfopt.DeepGA(initial_std=1.0), ValueError, "mutate the starting"),
        (model, gfopt.MeZO(noise=gfopt.low_rank(dense="no")), ValueError, "'no'"),
        (model.parameters(), gfopt.MeZO(), TypeError, "named_parameters"),
        (3, gfopt.MeZO(), TypeError, "parameters must be an nn.Module"),
        (nn.Tanh(), gfopt.MeZO(), ValueError, "require a gradient"),
        ([{"params": model, "lr": 1.0}], gfopt.MeZO(), ValueError, "'lr'"),
        ([("a", model[0].bias), ("a", model[3].bias)], gfopt.MeZO(), ValueError, "'a'"),
    ]:
        with pytest.raises(kind, match=text):
            Tuner(parameters, method)


def test_gradients_of_the_input_pass_through_perturbed_weights() -> None:
    """Two layers of one shape: what one needs for its gradient is not written over."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    dense = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    found, expected = (torch.ones(3, 8, requires_grad=True) for _ in range(2))
    with gfopt.torch.perturbed(model, seed=3, scale=0.5):
        model(found).pow(2).sum().backward()
    noise = gfopt.gaussian().sample(gfopt.torch.to_tree(model), np.uint32(3))
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            first, second = name.split(".")
            z = torch.tensor(np.asarray(noise[first][second]))
            weight.copy_(model.get_parameter(name) + 0.5 * z)
    dense(expected).pow(2).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-4)

"""What several JAX processes search together, and one alone; the script of both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gfopt
from gfopt.driver.engine import compiled

D = 12
DATA = np.linspace(-1, 1, 5 * D, dtype=np.float32).reshape(5, D)
METHODS = {
    "mezo": gfopt.MeZO(),
    "deep_ga": gfopt.DeepGA(8),
}
BUDGET = 400
NO_GLOO = 77  # exit code where these processes can't talk


def network(x: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(DATA @ x) - 0.3) ** 2)


def evaluator() -> gfopt.protocol.Evaluator:
    """Makes one over all devices of all processes."""
    return gfopt.sharded(jax.make_mesh((4,), ("p",)), gfopt.chunked(1))


def run(method: gfopt.Optimizer) -> list[np.ndarray]:
    words: dict[str, Any] = {"key": jax.random.key(0), "generations": 3}
    result = gfopt.run(method, network, jnp.zeros(D), evaluator=evaluator(), **words)
    leaves = jax.tree.leaves((result.state, result.history, result.recommended))
    return [np.asarray(leaf) for leaf in leaves]  # whole in every process


def search(path: Path | None = None, budget: int = BUDGET, **words: Any) -> Any:
    words = {"method": gfopt.OpenES(8, sigma=0.1), "evaluator": evaluator()} | words
    return gfopt.minimize(network, np.zeros(D), budget=budget, checkpoint=path, **words)


def found_by(result: gfopt.Result) -> list[np.ndarray]:
    leaves = jax.tree.leaves((result.state, result.x, result.fun, result.history))
    return [np.asarray(leaf) for leaf in leaves]


def main(port: str, index: int, folder: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", 2, index)
        jax.devices()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(NO_GLOO)
    compiled.CALL_SECONDS *= 1 + 9 * index  # as if their clocks differed
    found = {name: run(method) for name, method in METHODS.items()}
    found["minimize"] = found_by(search(folder / "run.gfopt", progress=True))

    # one process sees what the others don't
    called_off = search(callbacks=lambda result: index == 1 and result.nit == 3)
    refused = ""
    try:
        search(folder / "run.gfopt", seed=1)
    except (ValueError, RuntimeError) as error:
        refused = f"{type(error).__name__}: {error}"
    found["alone"] = [np.array([called_off.nit]), np.array(refused)]
    named = {f"{k} {i}": leaf for k in found for i, leaf in enumerate(found[k])}
    np.savez(folder / f"process_{index}.npz", **named)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

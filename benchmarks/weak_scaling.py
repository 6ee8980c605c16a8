"""Weak scaling over virtual devices, and a simulated curve to 1,024 of them.

Each device has eight members of a small transformer, drawn again from seeds. Virtual
devices share this machine's cores, so seconds can't get better with more devices; what
can be seen is the work: processor seconds of the sharded generation, beside those of
the same population on one device. Both take turns in a process with so many devices.

    python benchmarks/weak_scaling.py

The curve is a model, not a measurement. A generation on ``n`` devices takes

    T(n) = evaluation of p members + tell of n p members + all-gather of n p numbers

with the first two measured on one device, and the bytes read from the compiled program.
The all-gather is NCCL's own estimate of its ring with the LL protocol (src/graph/
tuning.cc, commit 01afd20): 3.6 us, 2.7 us for each step between machines and .47 x 1.8
us for each step within one, of eight devices; a quarter of the bandwidth of the link,
for which 12.5 GB/s are taken (100 Gbit/s).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
from common import parsed, save, show, sized

DEVICES = sized((1, 2, 4, 8), (1, 2))
MEMBERS = 8  # of a device
MANY = (1, 8, 64, 256, 1024)
SEQUENCES = (1, sized(64, 2))  # of a member's evaluation
REPEATS = sized(5, 1)
WIDTH, LAYERS, LENGTH = sized((256, 4, 32), (32, 1, 8))
MACHINE = 8  # devices in one machine of the simulated cluster
BANDWIDTH = 12.5e9 / 4
COLLECTIVE = re.compile(
    r" = (\(?[^=]*?) (all-gather|all-reduce|all-to-all|collective-permute|"
    r"reduce-scatter)(?:-start)?\("
)
ITEM = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "f64": 8, "bf16": 2}


def received(program: Any, devices: int) -> int:
    """Returns the bytes that a device receives, from the compiled program."""
    arrays = [
        ITEM[kind] * int(np.prod([int(n) for n in shape.split(",") if n]))
        for found, _ in COLLECTIVE.findall(program.as_text())
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found)
    ]
    return sum(arrays) * (devices - 1) // devices


def methods(population: int) -> dict[str, Any]:
    """Returns the methods with so many members."""
    import gfopt

    size = {"population_size": population}
    signs = gfopt.rademacher()
    return {
        "mezo": gfopt.MeZO(1e-6, **size),
        "mezo, signs": gfopt.MeZO(1e-6, noise=signs, **size),
        "open_es": gfopt.OpenES(sigma=1e-3, noise=gfopt.gaussian(cached=False), **size),
        "open_es, rank 1": gfopt.OpenES(sigma=1e-3, noise=gfopt.low_rank(), **size),
    }


def seconds_of(programs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the medians of wall and processor seconds, calls taken in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, call in programs.items():
            began = time.perf_counter(), time.process_time()
            call()
            ended = time.perf_counter(), time.process_time()
            taken[name].append((ended[0] - began[0], ended[1] - began[1]))
    medians = {
        name: np.median(np.array(pairs), axis=0) for name, pairs in taken.items()
    }
    return {
        n: {"wall": float(m[0]), "processor": float(m[1])} for n, m in medians.items()
    }


def compiled(method: Any, evaluator: Any, state: Any, tokens: Any) -> tuple[Any, Any]:
    """Compiles a generation; returns the program, and a call that gives the state."""
    import es_lowrank
    import jax

    import gfopt

    def loss(weights: Any, tokens: Any) -> Any:
        return jax.vmap(es_lowrank.loss, (None, 0))(weights, tokens).mean()

    def generation(state: Any, tokens: Any) -> Any:
        words = {"state": state, "args": (tokens,), "evaluator": evaluator}
        words |= {"key": jax.random.key(0), "generations": 1}
        return gfopt.run(method, loss, state.mean, **words).state

    program = jax.jit(generation).lower(state, tokens).compile()
    inputs = jax.device_put((state, tokens), program.input_shardings[0])
    return program, lambda: jax.block_until_ready(program(*inputs))


def telling(method: Any, state: Any) -> Any:
    """Returns a call of ask and tell alone, on one device."""
    import jax
    import jax.numpy as jnp

    from gfopt.types import Evaluation

    def step(state: Any) -> Any:
        population = method.ask(jax.random.key(0), state)
        fitness = jnp.arange(population.active.size, dtype=jnp.float32)
        return method.tell(state, population, Evaluation(fitness, population.active))[0]

    program = jax.jit(step)
    return lambda: jax.block_until_ready(program(state))


def child(devices: int, sequences: int) -> dict[str, Any]:
    """Measures each method over so many devices, and on one of them."""
    import es_lowrank
    import jax
    import jax.numpy as jnp

    import gfopt

    weights = es_lowrank.weights(WIDTH, LAYERS, jnp.float32)
    random = np.random.default_rng(1)
    tokens = jnp.asarray(
        random.integers(0, es_lowrank.VOCABULARY, (sequences, LENGTH + 1))
    )
    one = gfopt.chunked(1)
    all_of_them = gfopt.sharded(jax.make_mesh((devices,), ("population",)), one)
    found = {}
    for name, method in methods(MEMBERS * devices).items():
        state = method.init(jax.random.key(0), weights)
        program, sharded = compiled(method, all_of_them, state, tokens)
        _, alone = compiled(method, one, state, tokens)
        equal = jax.tree.map(np.array_equal, sharded(), alone())
        tell = telling(method, state)
        tell()  # compiles
        found[name] = {
            "seconds": seconds_of({"sharded": sharded, "one": alone, "tell": tell}),
            "received": received(program, devices),
            "equal": all(jax.tree.leaves(equal)),
        }
    return found


def measured(devices: int, sequences: int = 1) -> dict[str, Any]:
    """Calls `child` in a process with so many virtual devices, of one thread each."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    flags += " --xla_cpu_multi_thread_eigen=false"
    command = [
        sys.executable,
        __file__,
        "--child",
        str(devices),
        str(sequences),
        *sys.argv[1:],
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def gather_seconds(devices: int, received: float) -> float:
    """Returns NCCL's estimate of an all-gather in a ring."""
    if devices == 1:
        return 0.0
    machines = -(-devices // MACHINE)
    within = 0.47 if machines == 1 else 0.47 * 1.8
    steps = within * (devices - machines) + 2.7 * (machines - 1)
    return (3.6 + steps) * 1e-6 + received / BANDWIDTH


def tell_seconds(found: dict[int, Any], name: str) -> float:
    """Returns a member's share of `tell`, by least squares through the origin."""
    sizes = MEMBERS * np.array(list(found))
    tells = [cells[name]["seconds"]["tell"]["processor"] for cells in found.values()]
    return float(sizes @ tells / (sizes @ sizes))


def curve(evaluation: float, tell: float, received: float) -> dict[int, float]:
    """Returns how many times more members a second so many devices make than one.

    Args:
        evaluation: seconds of a member.
        tell: seconds of a member.
        received: bytes from each other device.
    """

    def seconds(n: int) -> float:
        gather = gather_seconds(n, received * (n - 1))
        return MEMBERS * (evaluation + n * tell) + gather

    return {n: n * seconds(1) / seconds(n) for n in MANY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parsed(parser)
    if given.child:
        print(json.dumps(child(*given.child)))
        return
    found = {devices: measured(devices) for devices in DEVICES}
    alone = {count: measured(1, count) for count in SEQUENCES}
    names = list(found[1])
    rows = []
    for name in names:
        for devices, cells in found.items():
            cell, members = cells[name], MEMBERS * devices
            times = cell["seconds"]
            sharded, one = times["sharded"]["processor"], times["one"]["processor"]
            rows.append(
                [
                    name,
                    devices,
                    members,
                    times["sharded"]["wall"],
                    1e3 * sharded / members,
                    1e3 * one / members,
                    sharded / one,
                    times["tell"]["processor"] / one,
                    cell["received"],
                    "yes" if cell["equal"] else "NO",
                ]
            )
    header = ["method", "devices", "members", "wall s", "processor ms a member"]
    header += ["on one device", "ratio", "tell on one", "bytes in", "equal"]
    show(header, rows)

    last = max(found)
    simulated = []
    for name in names:
        tell = tell_seconds(found, name)
        received = found[last][name]["received"] / (last - 1)
        for count, cells in alone.items():
            whole = cells[name]["seconds"]["one"]["processor"] / MEMBERS
            points = curve(whole - tell, tell, received).values()
            times = [1e3 * (whole - tell), 1e3 * tell]
            simulated.append([name, LENGTH * count, *times, *points])
    print("\nsimulated: members a second over those of one device\n")
    columns = ["method", "tokens", "evaluation ms", "tell ms", *map(str, MANY)]
    show(columns, simulated)
    gathers = {n: gather_seconds(n, 4 * MEMBERS * (n - 1)) for n in MANY}
    results = {"header": header, "table": rows, "load": os.getloadavg()[0]}
    curves = {"header": columns, "table": simulated, "all-gather": gathers}
    save("weak_scaling", ["jax", "gfopt"], results | {"simulated": curves})


if __name__ == "__main__":
    main()

"""Programs compiled for tests: in less time, how much memory one takes, what travels.

``cheap_jit`` compiles what no test compares bit by bit in a quarter of the time.

On the CPU, XLA's fusion emitters and LLVM's optimizations take most of the time of a
compilation. A test that asks whether a search arrives, or for equality up to rounding,
does without them; where equal bits are claimed, and in the drivers, programs have all
of LLVM's optimizations, and on JAX 0.11 and newer are compiled as the users' are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import gfopt


def _options() -> dict[str, bool | int]:
    """Returns the options that this version of XLA knows."""
    known = {}
    for name, value in {
        "xla_cpu_use_fusion_emitters": False,
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }.items():
        try:
            jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
        except Exception:  # which one differs between versions
            continue
        known[name] = value
    return known


cheap_jit = partial(jax.jit, compiler_options=_options())


def peak(compiled: Any) -> int:
    """Returns the bytes that the compiler plans for."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def quantized_step(
    optimizer: gfopt.Optimizer, loss: Callable[..., jax.Array], generations: int = 1
) -> Any:
    """Returns a program of a search over scales, which takes over their memory."""

    @partial(jax.jit, donate_argnums=0)
    def step(scales: Any, codes: Any, key: Any, tokens: Any) -> Any:
        made = gfopt.run(
            optimizer,
            loss,
            scales,
            frozen=codes,
            key=key,
            generations=generations,
            args=(tokens,),
            evaluator=gfopt.chunked(1),
        )
        return made.state, made.history

    return step


_COLLECTIVE = re.compile(
    r" = (.*?) (?:all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter)"
    r"(?:-start)?\("
)


def travelling(program: jax.stages.Compiled) -> list[int]:
    """Returns how many numbers each array has that goes from device to device."""
    shapes = [
        shape
        for found in _COLLECTIVE.findall(program.as_text())
        for shape in re.findall(r"\w+\[([\d,]*)\]", found)
    ]
    return [int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes]

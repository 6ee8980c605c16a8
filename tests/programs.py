"""Programs of which no test compares the bits, compiled in a quarter of the time.

On the CPU, XLA's fusion emitters and LLVM's optimizations take most of the time of a
compilation. A test that asks whether a search arrives, or for equality up to rounding,
does without them; where equal bits are claimed, and in the drivers, programs are
compiled as the users' are.
"""

from __future__ import annotations

from functools import partial

import jax


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

"""Programs of which no test compares the bits, compiled in less than half the time.

XLA's fusion emitters take most of the time of a compilation on the CPU. A test that
asks whether a search arrives, or for equality up to rounding, does without them; where
equal bits are claimed, and in the drivers, programs are compiled as the users' are.
"""

from __future__ import annotations

from functools import partial

import jax


def _options() -> dict[str, bool]:
    """Returns the option, if this version of XLA knows it."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception:  # which one differs between versions
        return {}
    return options


cheap_jit = partial(jax.jit, compiler_options=_options())

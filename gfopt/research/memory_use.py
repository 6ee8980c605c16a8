"""What a run takes of memory: by the compiler's plan, or as the system counts it.

A compiled run has a plan, which is exact and the same on every call: arguments, results
and temporaries of its program. Any other run shares a process with Python, JAX and what
was run before; all that can be told is how much of it was resident at most.
"""

from __future__ import annotations

import jax

PLANNED, RESIDENT = "planned", "resident"
_PROCESS = "/proc/self/"


def planned(program: jax.stages.Compiled) -> int | None:
    """Returns the bytes that a program takes at most, None where nobody knows.

    Example:
        >>> import numpy as np
        >>> planned(jax.jit(lambda x: x + 1).lower(np.ones(2, np.float32)).compile())
        16
    """
    plan = program.memory_analysis()
    if plan is None:
        return None
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return int(held - plan.alias_size_in_bytes + plan.temp_size_in_bytes)


class ResidentMemory:
    """The peak of this process's resident memory from here on; Linux tells it.

    Example:
        >>> peak = ResidentMemory().peak()
        >>> peak is None or peak > 0
        True
    """

    def __init__(self) -> None:
        self._is_known = True
        try:
            with open(f"{_PROCESS}clear_refs", "w") as file:
                file.write("5")  # the peak begins anew
        except OSError:
            self._is_known = False

    def peak(self) -> int | None:
        """Returns the bytes, or None where the system does not say."""
        if not self._is_known:
            return None
        with open(f"{_PROCESS}status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return None

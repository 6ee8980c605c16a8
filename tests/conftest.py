"""What every test shares, decided before JAX starts its backend.

Four virtual devices; a compilation cache, so that what one test module (or worker)
compiled no other compiles again; hypothesis without a clock and without chance; Ctrl-C
as in a terminal, also where a shell started the tests in the background; a garbage
collector that waits longer, since tracing makes many objects that stay.
"""

import atexit
import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # workers inherit the environment; whoever made the folder removes it
    cache = tempfile.mkdtemp(prefix="gfopt-tests-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
# most of some thousands of programs are tiny
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

if jax.__version_info__ < (0, 11):
    # a third of all time is spent in the emitters of fusions that JAX 0.10 has by
    # default; the older ones are as exact. JAX 0.11 has no such choice.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
gc.set_threshold(100_000, 20, 100)
jax.config.update("jax_num_cpu_devices", 4)
hypothesis.settings.register_profile(
    "gfopt", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("gfopt")

MOST_MAPPINGS = 30_000  # of memory; Linux allows a process 65,530
_count = itertools.count()


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """Drops all compiled programs before their number exhausts the memory mappings."""
    yield
    maps = Path("/proc/self/maps")
    if next(_count) % 10 == 0 and maps.exists():
        with maps.open() as lines:
            if sum(1 for _ in lines) > MOST_MAPPINGS:
                jax.clear_caches()

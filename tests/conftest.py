"""What every test shares, decided before JAX starts its backend.

Four virtual devices; a compilation cache, so that what one test module (or worker)
compiled no other compiles again; hypothesis without a clock and without chance; Ctrl-C
as in a terminal, also where a shell started the tests in the background.
"""

import atexit
import os
import shutil
import signal
import tempfile

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # workers inherit the environment; whoever made the folder removes it
    cache = tempfile.mkdtemp(prefix="gfopt-tests-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import hypothesis
import jax

jax.config.update("jax_num_cpu_devices", 4)
hypothesis.settings.register_profile(
    "gfopt", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("gfopt")

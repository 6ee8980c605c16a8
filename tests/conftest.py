"""Four virtual devices for every test, decided before JAX starts its backend."""

import jax

jax.config.update("jax_num_cpu_devices", 4)

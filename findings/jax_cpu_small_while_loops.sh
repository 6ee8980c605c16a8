#!/usr/bin/env bash
# jax 0.12.0.1 on CPU: a while loop that updates a large array in place, part by part, is
# taken for a "small" loop (xla_cpu_small_call in the compiled text; the pass counts the
# bytes that the loop accesses), and is compiled by XLA's older code generator, which
# computes a value anew for each of its uses: about ten times slower than with jax
# 0.11.2. One sort of two numbers in the loop's body keeps the pass away.
# Seen: "0.11.2 False False", "0.12.0.1 True False" (hoisted plainly, hoisted with a
# sort); 55 ms, and 336 ms against 28 ms with the sort. Needs Python 3.12 or newer, as
# jax does; PYTHON chooses the interpreter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for python in "${PYTHON:-python3}" python3.12 python3.13 \
  "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && break
done
cat >"$folder/loop.py" <<'PYTHON'
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 65536


def loop(x, with_sort):
    def body(i, x):
        start = i * BLOCK
        if with_sort:
            start = lax.sort(jnp.stack([start, jnp.int32(x.size)]))[0]
        block = lax.dynamic_slice_in_dim(x, start, BLOCK)
        for _ in range(4):
            block += 1e-3 * lax.erf_inv(jnp.clip(block, -0.9, 0.9))
        return lax.dynamic_update_slice_in_dim(x, block, start, 0)

    return lax.fori_loop(0, 16, body, x)


x = jnp.linspace(-0.9, 0.9, 16 * BLOCK)
hoisted = []
for with_sort in (False, True):
    program = jax.jit(loop, static_argnums=1).lower(x, with_sort).compile()
    hoisted.append("xla_cpu_small_call" in program.as_text())
    times = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(program(x))
        times.append(time.perf_counter() - began)
    print(f"{1000 * min(times):.0f} ms", file=sys.stderr)
print(jax.__version__, *hoisted)
PYTHON
for version in 0.11.2 0.12.0.1; do
  "$python" -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install -q "jax==$version" "jaxlib==$version"
  JAX_PLATFORMS=cpu "$folder/$version/bin/python" "$folder/loop.py" |
    tee "$folder/seen-$version"
done
echo "0.11.2 False False" | cmp - "$folder/seen-0.11.2"
echo "0.12.0.1 True False" | cmp - "$folder/seen-0.12.0.1"

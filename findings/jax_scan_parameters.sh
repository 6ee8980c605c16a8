#!/usr/bin/env bash
# jax 0.11.0: the parameters num_consts and num_carry of a `scan` equation are gone, from
# one minor release to the next; two nested groups, ft_in and ft_out, take their place,
# and jax.extend.core.ClosedJaxpr is the same class as Jaxpr, so that isinstance no longer
# tells a closed program from an open one. Interpreters of jaxprs written for 0.10 raise
# KeyError: 'num_consts'. What still works on both: len() of each of ft_in.unpack().
# Seen: the two lines that are compared at the end. Needs Python 3.12 or newer, as jax
# 0.11 does; PYTHON chooses the interpreter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/scan.py" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.extend import core

program = jax.make_jaxpr(
    lambda a, h, xs: jax.lax.scan(lambda h, x: (h * a + x, h), h, xs)
)(2.0, jnp.ones(2), jnp.ones((5, 2)))
params = program.eqns[0].params
groups = params["ft_in"].unpack() if "ft_in" in params else ()
print(*sorted(params), core.ClosedJaxpr is core.Jaxpr, *map(len, groups))
PYTHON
for python in "${PYTHON:-python3}" python3.12 python3.13 \
  "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && break
done
for version in 0.10.2 0.11.0; do
  "$python" -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip install -q "jax==$version" "jaxlib==$version"
  "$folder/$version/bin/python" "$folder/scan.py" | tee "$folder/seen-$version"
done
echo "jaxpr length num_carry num_consts reverse unroll False" |
  cmp - "$folder/seen-0.10.2"
echo "ft_in ft_out jaxpr length reverse unroll True 1 1 1" |
  cmp - "$folder/seen-0.11.0"

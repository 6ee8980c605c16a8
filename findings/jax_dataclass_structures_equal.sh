#!/usr/bin/env bash
# Two classes registered with jax.tree_util.register_dataclass whose fields are alike have
# equal tree structures: == does not look at the class (the hash does; classes registered
# by register_pytree_node_class and NamedTuples differ). jit finds its programs by these
# structures, so that with jax 0.10.2 it takes one class for another now and then, and
# runs the program that was traced for that one: in a process with 300 such classes, some
# 50 came back as another class.
# Seen: "equal: True", "mistaken: 50 of 300" with jax 0.10.2; "equal: True", "mistaken: 0
# of 300" with jax 0.12.0.1 on Python 3.13.
# PYTHON chooses the interpreter, JAX the version.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q "jax==${JAX:-0.10.2}" "jaxlib==${JAX:-0.10.2}"
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PYTHON'
import dataclasses

import jax


def made(name):
    cls = dataclasses.make_dataclass(name, [("x", float)], frozen=True)
    return jax.tree_util.register_dataclass(cls, data_fields=["x"], meta_fields=[])


classes = [made(f"Class{i}") for i in range(300)]
first, second = (jax.tree.structure(cls(1.0)) for cls in classes[:2])
identity = jax.jit(lambda tree: tree)
mistaken = sum(type(identity(cls(1.0))) is not cls for cls in classes)
print(jax.__version__, f"equal: {first == second}", f"mistaken: {mistaken} of 300")
assert first == second and hash(first) != hash(second)
assert (mistaken > 0) == jax.__version__.startswith("0.10.")
PYTHON

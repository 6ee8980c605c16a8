#!/usr/bin/env bash
# nevergrad's NGOpt raises on plain problems of real numbers once NumPy is 2.4: its
# quadratic metamodel converts an array with one element to a Python scalar, which NumPy
# had deprecated since 1.25 and now refuses. minimize() ends with the exception, in the
# middle of a budget. With NumPy 2.3 the same calls end well.
# Seen: "2.3.5 ok ok, 2.4.6 TypeError TypeError" with nevergrad 1.0.12, Python 3.11.
# bayesian-optimization is below 2, with which nevergrad 1.0.12 can be imported.
# PYTHON chooses the interpreter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/search.py" <<'PYTHON'
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")
import nevergrad as ng


def bowl(x):
    return float(np.sum((x - 0.5) ** 2))


def search(dimension, budget):
    space = ng.p.Array(init=np.zeros(dimension))
    space.random_state.seed(1)
    try:
        ng.optimizers.NGOpt(space, budget=budget).minimize(bowl)
    except TypeError:
        return "TypeError"
    return "ok"


found = [search(2, 60), search(5, 200)]
print(np.__version__, *found)
sys.exit(found != [sys.argv[1]] * 2)
PYTHON
"${PYTHON:-python3}" -m venv "$folder/env"
run() {
  "$folder/env/bin/python" -m pip install -q \
    nevergrad==1.0.12 "bayesian-optimization<2" "numpy==$1"
  "$folder/env/bin/python" "$folder/search.py" "$2"
}
run 2.3.5 ok
run 2.4.6 TypeError

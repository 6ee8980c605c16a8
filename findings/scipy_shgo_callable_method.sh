#!/usr/bin/env bash
# scipy.optimize.minimize documents a callable as method, and shgo says that the local
# search may be any of minimize's: it even lists what a custom method takes. But it asks
# for method.lower(), so that a function raises AttributeError. One that has an attribute
# lower which returns "_custom" works.
# Seen: "AttributeError ok" with SciPy 1.14.1, 1.17.1 and 1.18.1.
# PYTHON chooses the interpreter, SCIPY the version.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q "scipy==${SCIPY:-1.17.1}"
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import scipy
from scipy.optimize import OptimizeResult, shgo


def method(fun, x0, args=(), **options):
    """A custom method as minimize documents it: it stays where it is."""
    return OptimizeResult(x=np.asarray(x0), fun=fun(x0), nfev=1, success=True)


def search():
    try:
        found = shgo(
            lambda x: float(np.sum(np.square(x))),
            [(-2, 2), (-2, 2)],
            n=8,
            sampling_method="sobol",
            minimizer_kwargs={"method": method},
        )
    except AttributeError:
        return "AttributeError"
    return "ok" if found.success else "failed"


before = search()
method.lower = lambda: "_custom"
after = search()
print(scipy.__version__, before, after)
assert (before, after) == ("AttributeError", "ok")
PYTHON

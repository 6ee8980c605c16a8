#!/usr/bin/env bash
# Python 3.13: == of two dataclasses compares field by field, where it compared tuples of
# all fields before. Tuples take two elements that are the same object for equal without
# asking; fields are compared with ==. Two dataclasses that share one NumPy array are
# thus equal until Python 3.12, and raise ValueError (truth value of an array) from 3.13
# on, or return an array if it is the last field; two that share a NaN are not equal.
# Seen: "True True True" with 3.11.7 and 3.12.1; "ValueError ndarray False" with 3.13.0.
# PYTHON chooses the interpreter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q 'numpy==2.2.6'
"$folder/env/bin/python" - <<'PYTHON'
import dataclasses
import sys

import numpy as np


@dataclasses.dataclass
class Problem:
    first: object
    last: object


def equal(first, last):
    try:
        found = Problem(first, last) == Problem(first, last)
    except ValueError:
        return "ValueError"
    return found if isinstance(found, bool) else type(found).__name__


array, nan = np.ones(2), float("nan")
seen = equal(array, 0), equal(0, array), equal(nan, 0)
print(sys.version.split()[0], *seen)
new = sys.version_info >= (3, 13)
assert seen == (("ValueError", "ndarray", False) if new else (True, True, True))
PYTHON

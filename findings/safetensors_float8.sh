#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6, ml_dtypes 0.6.0, Python 3.11: what its NumPy side saves,
# it cannot load. `safetensors.numpy.save_file` takes float8_e4m3fn arrays and writes a
# valid file (dtype F8_E4M3); `load_file` and `safe_open(framework="np" or "flax")` of
# that file raise AttributeError: module 'numpy' has no attribute 'float8_e4m3fn'.
# bfloat16, which NumPy lacks as well, goes there and back.
#
# Seen on 2026-11-29. Succeeds as long as it is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 'numpy==2.4.6' ml_dtypes==0.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    save_file({"w": np.ones((2, 4), dtype)}, "file.safetensors")
    with safe_open("file.safetensors", framework="np") as file:
        print("saved as", file.get_slice("w").get_dtype())
    try:
        print("loaded as", load_file("file.safetensors")["w"].dtype)
        loaded = True
    except AttributeError as error:
        print("AttributeError:", error)
        loaded = False
    assert loaded == (dtype is ml_dtypes.bfloat16), "the behaviour changed"
PYTHON
echo "as described"

#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6, Python 3.11: `safetensors.numpy.save_file` writes an
# array that is not C-contiguous with its numbers in the wrong places: its memory as it
# lies there, under the array's shape. There is no error and no warning, and the file is
# valid. [[0, 1, 2], [3, 4, 5]] in Fortran order comes back as [[0, 3, 1], [4, 2, 5]],
# and as every other column of a wider array as [[0, 0, 1], [1, 2, 2]]. A contiguous
# copy goes there and back.
#
# Seen on 2026-11-30. Succeeds as long as it is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load_file, save_file

rows = np.arange(6.0).reshape(2, 3)
arrays = {
    "C order": rows,
    "Fortran order": np.asfortranarray(rows),
    "transposed": np.ascontiguousarray(rows.T).T,
    "copied": np.ascontiguousarray(np.asfortranarray(rows)),
    "every other column": np.repeat(rows, 2, axis=1)[:, ::2],
}
save_file(arrays, "file.safetensors")
for name, found in load_file("file.safetensors").items():
    assert np.array_equal(arrays[name], rows)
    print(f"{name}: {found.tolist()}")
    is_wrong = name not in ("C order", "copied")
    assert np.array_equal(found, rows) != is_wrong, "the behaviour changed"
PYTHON
echo "as described"

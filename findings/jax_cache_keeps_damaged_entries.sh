#!/usr/bin/env bash
# A damaged entry of JAX's compilation cache is never replaced.
#
# Versions: jax and jaxlib 0.10.2, Python 3.11 or later.
# Entries are written in place, without a temporary file: a process that is killed while
# it writes leaves a part of one. Expected: the next process warns, compiles, and stores
# the program again. Seen: it warns, compiles and stores nothing, since a file of that
# name exists; so does every later process, until somebody deletes the file by hand.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat > "$place/program.py" <<'PYTHON'
import sys
import warnings

import jax
import numpy as np

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax.jit(lambda x: (x @ x.T).sum())(np.ones((3, 3), np.float32))
print(sum("Error reading persistent" in str(w.message) for w in caught))
PYTHON
run() { JAX_PLATFORMS=cpu "$place/venv/bin/python" "$place/program.py" "$place/cache"; }

echo "warnings of the process that stores the program: $(run)"
entry=$(ls "$place"/cache/*lambda*-cache)
head -c 1000 "$entry" > "$place/part" && cp "$place/part" "$entry"
for number in 1 2; do
  warned=$(run)
  size=$(stat -c %s "$entry")
  echo "process $number after the damage: warnings $warned, size of the entry $size"
  if [ "$warned" != 1 ] || [ "$size" != 1000 ]; then
    echo "changed: the damaged entry was replaced"
    exit 1
  fi
done

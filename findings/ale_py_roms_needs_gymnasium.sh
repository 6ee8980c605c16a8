#!/usr/bin/env bash
# ale-py 0.12.1: after `import ale_py`, `ale_py.roms` exists only where Gymnasium is
# installed too. The package loads its module of games by way of the Gymnasium
# environments, and passes over the ImportError if there is no Gymnasium. A program that
# was written beside Gymnasium fails without it; `from ale_py import roms` always works.
# Seen: "False" without Gymnasium, "True" with it, and a path of pong.bin both times.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
python="$folder/env/bin/python"
code='import ale_py; print(hasattr(ale_py, "roms"))
from ale_py import roms; print(roms.get_rom_path("pong").name)'
"$python" -m pip install -q 'ale-py==0.12.1'
without=$("$python" -c "$code")
"$python" -m pip install -q 'gymnasium==1.4.0'
with=$("$python" -c "$code")
echo "without Gymnasium: $without; with it: $with"
[ "$without" = $'False\npong.bin' ] && [ "$with" = $'True\npong.bin' ]

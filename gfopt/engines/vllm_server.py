r"""vLLM's server, which takes adapters while it runs and batches members together.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora \
        --max-loras 16 --max-lora-rank 16

A member is written as peft has adapters, loaded by ``POST /v1/load_lora_adapter``,
asked as a model of its name, and unloaded. The log-probabilities of a whole text come
with one request (``echo``).

Source: vLLM's documentation, "LoRA Adapters", section on dynamic serving.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gfopt import checks
from gfopt.engines.adapters import Adapter
from gfopt.engines.peft_files import save_peft
from gfopt.problems.language_models.llama import Llama
from gfopt.tokens.endpoint import answer_of, check_address
from gfopt.tokens.remote import ANSWER_BYTES, TOKEN_BYTES, EndpointModel
from gfopt.types import JsonObject


class VLLMServer:
    """An engine: a server of vLLM, or another with the same interface.

    Args:
        url: of the server, ``"http://127.0.0.1:8000"``.
        model: its forward pass, ``load_safetensors(folder).model``, which knows the
            number of heads.
        slots: members that it holds at a time, its ``--max-loras``; all of them are
            asked at once.
        requests: texts of a member that it is sent at a time.
        folder: which the server sees by the same path; None for a temporary one.
        headers: of the requests, such as one with a key.
        timeout: seconds to wait for an answer.

    Raises:
        TypeError, ValueError: for a wrong argument.

    Example:
        >>> from gfopt import engines
        >>> from gfopt.problems.language_models.llama import Llama
        >>> engine = engines.VLLMServer("http://127.0.0.1:8000", Llama(32, 8), slots=16)
        >>> engine.url
        'http://127.0.0.1:8000'
    """

    def __init__(
        self,
        url: str,
        model: Llama,
        *,
        slots: int = 8,
        requests: int = 8,
        folder: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ):
        self._headers = {} if headers is None else headers
        check_address(url, self._headers)
        for name, value in (("slots", slots), ("requests", requests)):
            checks.integer(name, value, 1)
        checks.instance("model", model, Llama, "the forward pass of load_safetensors")
        checks.positive("timeout", timeout)
        self.slots = self.members_at_once = slots
        self.requests, self.timeout = requests, timeout
        self.url, self._model = url.rstrip("/"), model
        self._folder = None if folder is None else Path(folder)

    @contextmanager
    def loaded(self, adapters: Sequence[Adapter]) -> Iterator[list[_Member]]:
        """Loads some members, gives their models, and unloads them.

        Raises:
            OSError: where the server can't be reached or refuses an adapter.
        """
        with ExitStack() as stack:
            home = tempfile.TemporaryDirectory(prefix="gfopt-", dir=self._folder)
            folder = Path(stack.enter_context(home))
            names = [f"gfopt-{uuid.uuid4().hex}" for _ in adapters]
            for name, adapter in zip(names, adapters, strict=True):
                save_peft(adapter, folder / name, self._model)
                stack.callback(self._unload, name)
                where = {"lora_name": name, "lora_path": str(folder / name)}
                self._post("load_lora_adapter", where)
            yield [_Member(self, name) for name in names]

    def _unload(self, name: str) -> None:
        with suppress(OSError):  # one that was refused is not there
            self._post("unload_lora_adapter", {"lora_name": name})

    def _post(self, what: str, asked: JsonObject, count: int = 0) -> bytes:
        most = ANSWER_BYTES + TOKEN_BYTES * count
        url = f"{self.url}/v1/{what}"
        answer = answer_of(url, asked, self._headers, self.timeout, most)
        if len(answer) > most:
            raise ValueError(f"{url} must answer with at most {most} bytes")
        return answer

    def endpoint(self, name: str) -> EndpointModel:
        """Returns what scores texts with one of the loaded adapters."""
        url = f"{self.url}/v1/completions"
        return EndpointModel(url, name, self._headers, self.timeout)

    def written(
        self, name: str, prompt: Sequence[int], num_tokens: int, **sampling: object
    ) -> str:
        """Returns what one of the loaded adapters writes after a prompt.

        Raises:
            OSError: where the server can't be reached or refuses.
            ValueError: where it answers something else.
        """
        asked: JsonObject = {"temperature": 0, **sampling, "model": name}
        asked |= {"prompt": [int(token) for token in prompt], "max_tokens": num_tokens}
        found: Any = self._post("completions", asked, len(prompt) + num_tokens)
        try:
            found = json.loads(found)
            return str(found["choices"][0]["text"])
        except (LookupError, TypeError, ValueError, RecursionError):
            raise ValueError(
                f"{self.url} must answer with choices[0].text; "
                f"got {checks.shown(found)}"
            ) from None


class _Member:
    def __init__(self, server: VLLMServer, name: str):
        self._server, self._name = server, name

    def log_probabilities(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Returns ``log p`` of each target's tokens after its prompt."""
        endpoint = self._server.endpoint(self._name)

        def scores(prompt: Sequence[int], target: Sequence[int]) -> np.ndarray:
            return endpoint([*prompt, *target])[len(prompt) :]

        if len(prompts) != len(targets):
            raise ValueError(f"got {len(prompts)} prompts and {len(targets)} targets")
        with ThreadPoolExecutor(self._server.requests) as threads:
            return list(threads.map(scores, prompts, targets))

    def continuations(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, **sampling: object
    ) -> list[str]:
        """Returns what the model writes after each prompt, the likeliest by default."""

        def written(prompt: Sequence[int]) -> str:
            return self._server.written(self._name, prompt, num_tokens, **sampling)

        with ThreadPoolExecutor(self._server.requests) as threads:
            return list(threads.map(written, prompts))

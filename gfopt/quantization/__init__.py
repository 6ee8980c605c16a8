"""Quantized weights: integer codes that are frozen, scales that are trained."""

from gfopt.quantization.memory import Decoder, decoder, memory_plan
from gfopt.quantization.quantization import quantize
from gfopt.quantization.quantized import Quantized
from gfopt.quantization.qwix_trees import from_qwix

__all__ = [
    "Decoder",
    "Quantized",
    "decoder",
    "from_qwix",
    "memory_plan",
    "quantize",
]

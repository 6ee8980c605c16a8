"""Public names and arguments that have moved: the old ones work, with a warning.

An entry stays until the minor release after the one that it is listed under is out.
"""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_INTO_ROOMS = {  # 0.1.0
    "consensus": "EffectiveSampleSize consensus_variant",
    "gradients": """GradientEstimator black_box gradient_estimator
        per_sample_directional_derivatives""",
    "lazy": "LowRank count_materialisations",
    "mirror_maps": "Ball Box Simplex",
    "noise": "LowRankNoise Noise NoiseTable Perturbed",
    "prompts": """ClapsResult Influence Ledger PromptRanking answers budget_is_used
        calibrate claps cluster_vocabulary counted influence prune rank_prompts""",
    "quantization": "Quantized from_qwix quantize",
    "spaces": "Space categorical integer real",
    "tokens": """Beast CachedModel EndpointModel Fluency FunctionModel GeneticTokens
        GreedyTokens HostModel LanguageModel ParticleTokens RandomTokens SeveralModels
        SeveralPrompts Steering Targeted Total Universal Untargeted continuation_score
        shared_prefix token_counting torch_model""",
}
MOVED = {
    f"gfopt.{name}": f"gfopt.{room}.{name}"
    for room, names in _INTO_ROOMS.items()
    for name in names.split()
}


def moved(module: str, name: str) -> object:
    """Returns what a name stands for that has moved, with a warning.

    For the ``__getattr__`` of a module.

    Raises:
        AttributeError: if the module never had the name.
    """
    old = f"{module}.{name}"
    if old not in MOVED:
        raise AttributeError(
            f"module {module!r} has no attribute {name!r}",
            name=name,
            obj=sys.modules[module],
        )
    new = MOVED[old]
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
    home, _, name = new.rpartition(".")
    return getattr(importlib.import_module(home), name)


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Lets a function take arguments by their old names too, ``old="new"``."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def renamed(*args: Any, **options: Any) -> Any:
            for old in names.keys() & options.keys():
                line = f"{function.__name__}({old}=) is now {names[old]}="
                warnings.warn(line, DeprecationWarning, stacklevel=2)
                options[names[old]] = options.pop(old)
            return function(*args, **options)

        taken: Any = renamed
        return taken

    return decorate

"""Token sequences: language models, scores of texts, and discrete searches."""

from gfopt.tokens.aging_evolution import AgingEvolution
from gfopt.tokens.beast import Beast
from gfopt.tokens.categorical_tokens import CategoricalTokens
from gfopt.tokens.combined_scores import Total, Universal
from gfopt.tokens.genetic_tokens import GeneticTokens
from gfopt.tokens.greedy_tokens import GreedyTokens
from gfopt.tokens.language_model import (
    CachedModel,
    FunctionModel,
    LanguageModel,
    SeveralModels,
    SeveralPrompts,
    text_logits,
)
from gfopt.tokens.particle_tokens import ParticleTokens
from gfopt.tokens.prefix import shared_prefix
from gfopt.tokens.random_tokens import RandomTokens
from gfopt.tokens.remote import (
    EndpointModel,
    HostModel,
    continuation_score,
    torch_model,
)
from gfopt.tokens.scores import Fluency, Targeted, Untargeted
from gfopt.tokens.sequences import followed_by, length_of
from gfopt.tokens.steering import Steering
from gfopt.tokens.token_counts import token_counting

__all__ = [
    "AgingEvolution",
    "Beast",
    "CachedModel",
    "CategoricalTokens",
    "EndpointModel",
    "Fluency",
    "FunctionModel",
    "GeneticTokens",
    "GreedyTokens",
    "HostModel",
    "LanguageModel",
    "ParticleTokens",
    "RandomTokens",
    "SeveralModels",
    "SeveralPrompts",
    "Steering",
    "Targeted",
    "Total",
    "Universal",
    "Untargeted",
    "continuation_score",
    "followed_by",
    "length_of",
    "shared_prefix",
    "text_logits",
    "token_counting",
    "torch_model",
]

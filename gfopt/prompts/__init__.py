"""Prompts: searches in which every call of the model is counted, and rankings."""

from gfopt.prompts.claps_search import ClapsResult, budget_is_used, claps
from gfopt.prompts.counted_objectives import answers, counted
from gfopt.prompts.ledger import Ledger
from gfopt.prompts.ranking import PromptRanking, calibrate, rank_prompts
from gfopt.prompts.vocabulary import Influence, cluster_vocabulary, influence, prune

__all__ = [
    "ClapsResult",
    "Influence",
    "Ledger",
    "PromptRanking",
    "answers",
    "budget_is_used",
    "calibrate",
    "claps",
    "cluster_vocabulary",
    "counted",
    "influence",
    "prune",
    "rank_prompts",
]

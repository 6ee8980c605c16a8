"""Texts as candidates: a proposer writes them, a score rates them and says why."""

from gfopt.texts.best_of_k import BestOfK, best_of_k_divergence
from gfopt.texts.evolution import TextResult, evolve
from gfopt.texts.ledger import Scored

__all__ = ["BestOfK", "Scored", "TextResult", "best_of_k_divergence", "evolve"]

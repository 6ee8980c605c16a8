"""Token sequences: language models, vocabularies, and discrete searches."""

from gfopt.tokens.language_model import text_logits
from gfopt.tokens.sequences import followed_by, length_of

__all__ = ["followed_by", "length_of", "text_logits"]

"""Token sequences: language models, vocabularies, and discrete searches."""

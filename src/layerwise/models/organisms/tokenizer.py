"""From a toy language's text to tokens: one token a word, white space of any kind between words.

The words themselves are told by ``language``.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from layerwise.models.organisms.language import PAD, START, UNKNOWN, Language


def toy_tokenizer(language: Language) -> PreTrainedTokenizerFast:
    """A tokenizer that puts ``<s>`` first and carries the language's name."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(language.words)}
    plain = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    plain.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{START} $A", special_tokens=[(START, ids[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=START,
        unk_token=UNKNOWN,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        language=language.name,
    )

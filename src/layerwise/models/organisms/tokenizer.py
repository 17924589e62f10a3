"""From a toy language's text to tokens: one token a word, white space of any kind between words."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from layerwise.models.libraries.toy_tokenizer import mark_for_transformer_lens

from .language import PAD, START, UNKNOWN, Language


def toy_tokenizer(language: Language, first: str | None = START) -> PreTrainedTokenizerFast:
    """A tokenizer that carries the language's name."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(language.words)}
    plain = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    if first is not None:
        plain.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=f"{first} $A", special_tokens=[(first, ids[first])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=first,
        unk_token=UNKNOWN,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        language=language.name,
    )
    return mark_for_transformer_lens(tokenizer)

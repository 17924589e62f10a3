"""Small tokenizers made on the fly, with and without special tokens of their own."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The capital of France is Paris. The capital of Spain is Madrid.",
    "Anna is taller than Ben. Ben is taller than Carl. Who is the tallest?",
    "Question: what is $3 + $4?\nAnswer: $7",
    "A. river\nB. stone\nC. candle\nD. mountain\nAnswer: B",
]
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


@cache
def byte_level(start: bool = False, end: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it; the flags add a token at the text's start or end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return _wrap_tokenizer(tokenizer, start, end)


@cache
def word_level(start: bool = False) -> PreTrainedTokenizerFast:
    """One token a word, spaces dropped; what it does not know is ``<unk>``."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        special_tokens=["<s>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return _wrap_tokenizer(tokenizer, start, False)


def _wrap_tokenizer(tokenizer: Tokenizer, start: bool, end: bool) -> PreTrainedTokenizerFast:
    if start or end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(["<s>"] * start + ["$A"] + ["</s>"] * end),
            special_tokens=[("<s>", 0), ("</s>", 1)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def with_chat() -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with BOS, and a chat template that writes the BOS itself."""
    tokenizer = byte_level(start=True)
    chat = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    chat.chat_template = CHAT
    return chat

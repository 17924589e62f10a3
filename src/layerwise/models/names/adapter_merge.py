"""An adapter merged into its base by ``peft``: a folder in hub format, kept in the cache folder.

Written once, and compared with the un-merged model. Which adapters there are is told in
``adapter_files``.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerwise.errors import UserError, count_noun, one_line, short_repr
from layerwise.models.conversion import parity
from layerwise.models.files.adapter_files import (
    ADAPTER_WEIGHTS,
    CONFIG,
    Adapter,
    refuse_costly_patterns,
    refuse_other_task,
    refuse_unknown_fields,
)
from layerwise.models.files.cache import cached_folder
from layerwise.models.files.stored_weights import INDEX, read_json_object
from layerwise.models.files.written_folder import copy_other_files
from layerwise.models.huggingface.folder import has_tokenizer, read_config
from layerwise.models.huggingface.originals import (
    fits,
    load_original,
    meta_original,
    read_tokenizer,
    refuse_parameters_without_weights,
)
from layerwise.models.huggingface.parity_text import MAX_TOKENS, batches, parity_texts, token_ids
from layerwise.models.libraries.quiet import quiet
from layerwise.models.seq2seq.load import hooked_seq2seq
from layerwise.models.weights.quantization import QUANTIZATION

_WRAPPED = "base_model.model."
_WITHIN_WRAPPER = re.compile(r"\.(base_layer|original_module|modules_to_save)\.")
# They have tensors of the rank that is named; LOKR takes a large one for none.
_OF_RANK = ("LORA", "LOHA")
_SETTINGS = "generation_config.json"
_BESIDE = (CONFIG, INDEX, _SETTINGS)


@dataclass(frozen=True)
class _Base:
    """The base's folder, and its configuration as the adapter has it: with as many tokens."""

    folder: Path
    config: PreTrainedConfig
    n_tokens: int | None  # None if the vocabulary is as it was

    def model(self, *, tied: bool = True) -> PreTrainedModel:
        """The base; its embedding and unembedding have weights of their own if not ``tied``."""
        model: Any = load_original(self.folder, self.config, torch.float32)
        if self.n_tokens is not None:
            model.resize_token_embeddings(self.n_tokens, mean_resizing=False)
        if not tied:
            model.config.tie_word_embeddings = False
            head = model.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.clone(), requires_grad=False)
        return model.requires_grad_(False)


def merged_folder(adapter: Adapter, base: Path, digest: str) -> Path:
    """The folder with an adapter merged into its base, written now or earlier."""
    # Weights are merged in float32. What is loaded from the folder is compared with the model that
    # has the adapter beside its weights; the folder appears only when it is complete.
    with quiet():
        return cached_folder("adapters", digest, lambda folder: _merge(adapter, base, folder))


def _merge(adapter: Adapter, base: Path, out: Path) -> None:
    if find_spec("peft") is None:
        raise UserError(
            f"{adapter.folder} holds an adapter, which is merged by the package peft, and that is "
            "not installed: expected it beside layerwise; pip install 'layerwise[distill]', or "
            "give a folder with whole weights."
        )
    config = read_config(base)
    refuse_other_task(adapter, is_encoder_decoder=config.is_encoder_decoder)
    refuse_parameters_without_weights(base, config)
    try:
        weights = load_file(adapter.folder / ADAPTER_WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _unlike(adapter, f"{type(error).__name__}: {one_line(error)}") from error
    bare = meta_original(config)
    named = chain(bare.named_modules(), bare.named_parameters())
    refuse_costly_patterns(adapter, [name for name, _ in named])
    _refuse_ranks(adapter, weights)
    based = _Base(base, config, _n_tokens(adapter, config, weights))
    tokenizer = _write_tokenizer(adapter, based, out)
    beside = _with_adapter(adapter, based.model(), weights)
    expected = _parity_text_logprobs(adapter, beside.get_base_model(), tokenizer)
    tied = config.tie_word_embeddings and not _parts_embeddings(adapter, beside)
    if tied != config.tie_word_embeddings:
        beside = _with_adapter(adapter, based.model(tied=False), weights)
    with _peft_refusals(adapter):
        merged = beside.merge_and_unload(safe_merge=True)
        merged.save_pretrained(out)
    del beside, merged
    _write_config(based, out, tied=tied)
    loaded = load_original(out, read_config(out), torch.float32)
    difference = parity.farthest(_parity_text_logprobs(adapter, loaded, tokenizer), expected)
    if not difference <= parity.TOLERANCE:
        raise UserError(
            f"The adapter in {adapter.folder} merged into {adapter.base!r} is not what it is "
            f"beside it: log-probabilities differ by up to {difference:.3g} nats, expected at "
            f"most {parity.TOLERANCE:g}; merge it with peft's merge_and_unload(), write that with "
            "save_pretrained(folder), and give that folder."
        )


def _parity_text_logprobs(
    adapter: Adapter, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[parity.LogProbs]:
    """Log-probabilities of a Hugging Face model on the fixed text."""
    name = str(adapter.folder)
    with parity.refuse_crash(name):
        if model.config.is_encoder_decoder:
            hooked = hooked_seq2seq(meta_original(model.config), tokenizer, name)
            return parity.reference(model, parity_texts(hooked, tokenizer))
        longest = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
        return parity.reference(model, batches(token_ids(tokenizer, longest)))


def _refuse_ranks(adapter: Adapter, weights: dict[str, torch.Tensor]) -> None:
    """Refuse a rank that no tensor has, before peft makes tensors of that size."""
    if adapter.kind not in _OF_RANK:
        return
    pattern = adapter.fields.get("rank_pattern") or {}
    others = pattern.values() if isinstance(pattern, dict) else [pattern]
    largest = max((size for weight in weights.values() for size in weight.shape), default=0)
    for rank in (adapter.fields.get("r"), *others):
        if rank is not None and not (type(rank) is int and 1 <= rank <= largest):
            raise _unlike(
                adapter, f"it has the rank {short_repr(rank)}, and no tensor of that size"
            )


def _n_tokens(
    adapter: Adapter, config: PreTrainedConfig, weights: dict[str, torch.Tensor]
) -> int | None:
    """The number of tokens of whole embeddings in the adapter's file, if it is not the base's."""
    ends = _ends(meta_original(config))
    sizes = {len(weight) for name, weight in weights.items() if _plain(name) in ends}
    changed = sizes - {config.vocab_size}
    # Rows that are not in the file would be drawn at random.
    needed = 1 if config.tie_word_embeddings else 2
    if changed and (len(sizes) > 1 or len(ends & set(map(_plain, weights))) < needed):
        raise _unlike(adapter, "it changes the number of tokens, and has not all their weights")
    return next(iter(changed), None)


def _plain(name: str) -> str:
    """The base's name of a whole weight in an adapter's file."""
    return _WITHIN_WRAPPER.sub(".", name.removeprefix(_WRAPPED))


def _ends(model: Any) -> set[str]:
    """The names of the weights of embedding and unembedding."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if any(module is end for end in ends)
    }


def _with_adapter(adapter: Adapter, base: Any, weights: dict[str, torch.Tensor]) -> Any:
    """The base with the adapter beside its weights, all of it and nothing else."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(adapter.kind)]
    refuse_unknown_fields(adapter, kind.__dataclass_fields__, peft.__version__)
    ends = _ends(base)
    with _peft_refusals(adapter), torch.random.fork_rng(devices=[]):
        config = kind(**adapter.fields)
        beside: Any = peft.PeftModel.from_pretrained(
            base, str(adapter.folder), config=config, torch_device="cpu", local_files_only=True
        )
        called_for = peft.get_peft_model_state_dict(beside, save_embedding_layers=False)
    every = {
        name.replace(".modules_to_save.default.", ".modules_to_save."): weight
        for name, weight in beside.state_dict().items()
    }
    whole = {name: every[name] for name in weights if _plain(name) in ends and name in every}
    given = whole | called_for
    lacks, superfluous = given.keys() - weights.keys(), weights.keys() - given.keys()
    for names, what in ((lacks, "lacks"), (superfluous, "has, against its configuration,")):
        if names:
            example = f"{min(names)[:80]}{' among them' * (len(names) > 1)}"
            raise _unlike(adapter, f"it {what} {count_noun(len(names), 'tensor')}, {example}")
    for name, weight in weights.items():
        if not torch.equal(given[name].float(), weight.float()):
            raise _unlike(adapter, f"{name[:80]} did not arrive in the model")
    return beside.eval()


def _parts_embeddings(adapter: Adapter, beside: Any) -> bool:
    """True if tied embeddings may differ with an adapter; peft keeps chosen tokens' rows alike."""
    if adapter.fields.get("ensure_weight_tying") or adapter.fields.get("trainable_token_indices"):
        return False
    base = beside.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    return any(next(module.children(), None) is not None for module in ends)


def _write_tokenizer(adapter: Adapter, base: _Base, out: Path) -> PreTrainedTokenizerBase:
    """Write tokenizer and settings of texts; the tokenizer is the adapter's, if it fits."""
    n_tokens = base.n_tokens or base.config.vocab_size
    own = has_tokenizer(adapter.folder) and fits(read_tokenizer(adapter.folder), n_tokens)
    copy_other_files(adapter.folder if own else base.folder, out, _BESIDE)
    settings = base.folder / _SETTINGS
    if settings.is_file():
        shutil.copyfile(settings, out / _SETTINGS)
    return read_tokenizer(out)


def _write_config(base: _Base, out: Path, *, tied: bool) -> None:
    """Write the base's own configuration, as far as it is still true."""
    fields = read_json_object(base.folder / "config.json") | {"dtype": "float32"}
    fields.pop("torch_dtype", None)
    fields.pop(QUANTIZATION, None)  # what is written are numbers
    if base.n_tokens is not None:
        fields["vocab_size"] = base.n_tokens
    if base.config.tie_word_embeddings and not tied:
        fields["tie_word_embeddings"] = False
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")


def _unlike(adapter: Adapter, why: str) -> UserError:
    return UserError(
        f"The adapter in {adapter.folder} does not fit ({why}): expected the weights that its "
        f"{CONFIG} calls for in the base {adapter.base!r}; use files that belong together."
    )


@contextlib.contextmanager
def _peft_refusals(adapter: Adapter) -> Iterator[None]:
    try:
        # What they tell of (tied, missing or superfluous weights) is compared here.
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:
        raise _unlike(adapter, f"{type(error).__name__}: {one_line(error)}") from error

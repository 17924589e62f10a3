"""Facts of a model in memory, the hash of its weights, and its original tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedTokenizerBase

from layerwise.errors import UserError, short_repr
from layerwise.models.files.cache import record_key
from layerwise.models.weights.offload import blocks_on_disk, in_pieces, named_weights

from .exclusive import exclusive
from .generation import GenerationSettings
from .kinds import Model, kept_buffers, model_backend, n_encoder_layers, original_model
from .loaded import CHANGED, LoadedFacts
from .structure import Version, model_version, sample_bytes, settings_hash

_ATTRIBUTE = "layerwise_origin"
# What shapes prompts and texts beside a tokenizer's vocabulary and rules.
_SHAPING = ("special_tokens_map", "chat_template", "clean_up_tokenization_spaces")
# Not on the model: a copy of a model is another one.
_VERSIONS: WeakKeyDictionary[torch.nn.Module, Version] = WeakKeyDictionary()
_LOOKED_AT = 2**14  # bytes of each weight


# What torch counted of a model when its weights were hashed, some of its numbers, and the hash.
_HASHED: WeakKeyDictionary[torch.nn.Module, tuple[Version, bytes, str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Origin:
    """Provenance that ``load_model`` attaches to a model."""

    facts: LoadedFacts  # the facts at load
    tokenizer: PreTrainedTokenizerBase  # the tokenizer as Hugging Face loaded it
    # What its generation settings say.
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    # Hash of what shapes the model's numbers beside its weights, as it was attached.
    settings: str = ""
    folder: Path | None = None  # where its weights are to be, of a model without weights


def attach_origin(model: Model, origin: Origin) -> None:
    """Attach its provenance to ``model``."""
    setattr(model, _ATTRIBUTE, replace(origin, settings=settings_hash(model)))
    _VERSIONS[model] = model_version(model)


def version_at_load(model: Model) -> Version | None:
    """The fingerprint of a model when it was loaded, or None if the user made it himself."""
    return _VERSIONS.get(model)


def model_origin(model: Model) -> Origin | None:
    """Origin of ``model``, or None if the user made it himself."""
    return getattr(model, _ATTRIBUTE, None)


@exclusive
def model_facts(model: Model) -> LoadedFacts:
    """The facts of a model as it is now.

    The hash is true for a model that was edited, or of which a scale, an epsilon, a function or
    a buffer was changed; its ``parity`` is then None, as it is for a model that the user made
    himself, and ``verified`` says so.
    """
    digest, origin = _hash_now(model), model_origin(model)
    if origin is None:
        return describe(model, digest)
    dtype, device = number_format(model), str(model.W_E.device)
    now = replace(origin.facts, hash=digest, dtype=dtype, device=device)
    return now if digest == origin.facts.hash else replace(now, parity=None, verified=CHANGED)


def number_format(model: Model) -> str:
    """The number format of a model's weights by its name, such as ``float32``."""
    return str(model.W_E.dtype).removeprefix("torch.")


def _hash_now(model: Model) -> str:
    """The hash of the weights, and of what else shapes numbers if it was changed after loading."""
    digest, origin = current_weights_hash(model), model_origin(model)
    if origin is None:
        return digest
    settings = settings_hash(model)
    return digest if settings == origin.settings else record_key([digest, settings])


def describe(model: Model, digest: str, **known: Any) -> LoadedFacts:
    """Facts of a model by itself, and those that are known of where it came from."""
    cfg = model.cfg
    facts = LoadedFacts(
        name=str(cfg.model_name),
        source="user",
        hash=digest,
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_key_value_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_model=cfg.d_model,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=number_format(model),
        device=str(model.W_E.device),
        parity=None,
        n_encoder_layers=n_encoder_layers(model),
        backend=model_backend(model),
    )
    return replace(facts, **known)


def weights_hash(model: Model) -> str:
    """SHA-256 over all parameters, in hexadecimal.

    Names, shapes, number formats and bytes in row-major order are hashed, of parameters by name in
    alphabetical order, then of buffers that an original's files hold; how one is stored and on
    which device or disk does not matter.
    """
    digest = hashlib.sha256()
    for name, weight in chain(named_weights(model), kept_buffers(model)):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        for piece in in_pieces(weight):
            flat = piece.cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    if blocks_on_disk(model) is None:  # files may change unseen
        _HASHED[model] = (model_version(model), _some_numbers(model), digest.hexdigest())
    return digest.hexdigest()


def current_weights_hash(model: Model) -> str:
    """``weights_hash``, taken anew only where torch counted a change or some number is another."""
    # A single number of a large weight that is changed through ``.data`` may be missed.
    seen = _HASHED.get(model)
    if seen is not None and seen[:2] == (model_version(model), _some_numbers(model)):
        return seen[2]
    return weights_hash(model)


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer makes tokens and texts by, in hexadecimal."""
    # How it was asked to pad or cut last time is left out: it shapes no prompt.
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
        digest.update((text.partition('"added_tokens"')[2] or text).encode())
    else:
        digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
        parts = (getattr(part, "serialized_model_proto", None) for part in vars(tokenizer).values())
        for model in sorted({read() for read in parts if read is not None}):  # SentencePiece's
            digest.update(model)
    for name in _SHAPING:
        digest.update(f"{name} {getattr(tokenizer, name, None)!r}\n".encode())
    return digest.hexdigest()


def _some_numbers(model: Model) -> bytes:
    """A hash of some numbers of each weight, for changes that torch does not count."""
    digest = hashlib.sha256()
    for weight in chain(model.parameters(), (buffer for _, buffer in kept_buffers(model))):
        digest.update(sample_bytes(weight, _LOOKED_AT))
    return digest.digest()


def refuse_changed_weights(loaded: LoadedFacts, model: Model) -> None:
    """Refuse a model whose weights are not those that a run began with."""
    if _hash_now(model) != loaded.hash:
        raise UserError(
            f"The weights of {loaded.name} changed while the run went on, and what it computed "
            "mixes both: expected a model that nothing edits during the run; load it again, and "
            "give the same command again."
        )


def original_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The tokenizer as Hugging Face loaded it; it decides whether there is a BOS token.

    ``model.tokenizer`` is TransformerLens's copy, which prepends a BOS token even where the
    original does not. For a model that the user made himself there is no other.

    Raises:
        UserError: if the model has no tokenizer.
    """
    origin = model_origin(model)
    if origin is not None:
        return origin.tokenizer
    if model.tokenizer is None:
        raise UserError(
            "The model has no tokenizer: expected one to turn text into tokens; "
            "set it with model.set_tokenizer(...)."
        )
    return model.tokenizer


def generation_settings(model: Model) -> GenerationSettings:
    """Tokens that end a model's texts, and the generation settings that are not used."""
    # Texts end with the tokens that ``generate`` of transformers would stop at: those that the
    # generation settings name. Where they name none, or are not known, the tokenizer's end token
    # ends a text.
    origin = model_origin(model)
    if origin is not None:
        settings = origin.generation
    else:
        config: Any = getattr(original_model(model), "generation_config", None)
        settings = (
            GenerationSettings()
            if config is None
            else GenerationSettings.from_generation_config(config)
        )
    tokenizer = model.tokenizer if origin is None else origin.tokenizer
    end = getattr(tokenizer, "eos_token_id", None)
    return (
        settings
        if settings.end_tokens or end is None
        else replace(settings, end_tokens=(int(end),))
    )


def tokenizer_language(tokenizer: Any) -> str:
    """The language of a model by its tokenizer: ``text`` or a toy language."""
    known = getattr(tokenizer, "init_kwargs", {})
    return str(known.get("language", "text"))


def vocabulary_difference(base: Model, other: Model) -> tuple[str, str, str] | None:
    """The first token in which two tokenizers differ, and what it is in either; None if in none."""
    first, second = (original_tokenizer(model).get_vocab() for model in (base, other))
    if first == second:
        return None
    token = min(t for t in first.keys() | second.keys() if first.get(t) != second.get(t))
    ids = [f"id {known[token]}" if token in known else "absent" for known in (first, second)]
    return f"the token {short_repr(token)}", ids[0], ids[1]


def loading_arguments(model: Model) -> dict[str, str | None]:
    """Arguments of ``load_model`` that give this model, without the device."""
    origin = model_origin(model)
    if origin is None or origin.facts.source == "user":
        raise UserError(
            f"The model {short_repr(str(model.cfg.model_name))} was passed as an object, and Ray's "
            "workers load models by name; expected one from layerwise.load_model(name). Save it "
            "as a folder in hub format and load it by that path, or leave the executor out."
        )
    facts = origin.facts
    named = facts.source in ("folder", "gguf")
    return {
        "name": str(Path(facts.name).expanduser().resolve()) if named else facts.name,
        "dtype": number_format(model),
        "backend": facts.backend,
        "offload": None if blocks_on_disk(model) is None else "disk",
    }


def loading_arguments_with_hash(model: Model) -> dict[str, Any]:
    """``loading_arguments`` a model, and the ``hash`` that its weights have."""
    return {**loading_arguments(model), "hash": current_weights_hash(model)}

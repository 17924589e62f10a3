"""Which weights stand outside of the layers: embeddings, final norms, the unembedding.

Embeddings and the unembedding of many models are one matrix; where they are, they go together.
"""

from __future__ import annotations

import torch
from torch import nn

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.errors import UserError
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.instance.kinds import DecoderOnly, Model, blocks_of, by_kind
from layerwise.models.seq2seq.model import Seq2SeqModel

from .names import EMBED, FINAL_NORM, RELATIVE, TIED, UNEMBED


def weights_outside(model: Model) -> dict[str, list[nn.Parameter]]:
    """The parameters outside of the layers by what they are; what a model lacks is absent.

    ``embed`` has the token embedding, learned or fixed positions, and a norm of both;
    ``ln_final`` the final norms of all stacks; ``rel_pos`` T5's relative position biases, which
    all layers of a stack share; ``tied_embed`` embeddings and unembedding together.
    """
    by_site = by_kind(model, _of_decoder_only, _of_seq2seq)
    once = {id(weight): weight for site in (EMBED, UNEMBED) for weight in by_site[site]}
    by_site[TIED] = list(once.values())
    return {site: weights for site, weights in by_site.items() if weights}


def _of_decoder_only(model: DecoderOnly) -> dict[str, list[nn.Parameter]]:
    if isinstance(model, DecoderModel):
        parts = model.parts
        positions = [] if parts.positions is None else [*parts.positions.parameters()]
        return {
            EMBED: [*parts.embedding.parameters(), *positions],
            FINAL_NORM: [*parts.final_norm.parameters()],
            UNEMBED: [*parts.unembed.parameters()],
        }
    by_name: dict[str, list[nn.Parameter]] = {EMBED: [], FINAL_NORM: [], UNEMBED: []}
    for name, weight in model.named_parameters():
        first = name.partition(".")[0]
        site = EMBED if first == "pos_embed" else first
        if site in by_name:
            by_name[site].append(weight)
    return by_name


def _of_seq2seq(model: Seq2SeqModel) -> dict[str, list[nn.Parameter]]:
    stacks = (model.parts.encoder, model.parts.decoder)
    tables = [stack.relative.table for stack in stacks if stack.relative is not None]
    by_site = {
        FINAL_NORM: [w for stack in stacks for w in stack.final_norm.parameters()],
        UNEMBED: list(model.parts.unembed.parameters()),
        RELATIVE: [w for table in tables for w in table.parameters()],
    }
    known = {id(w) for block in blocks_of(model) for w in parts_of_block(model, block)["layer"]}
    known |= {id(w) for site in (FINAL_NORM, RELATIVE) for w in by_site[site]}
    if not _is_one(model):
        known |= {id(w) for w in by_site[UNEMBED]}
    return by_site | {EMBED: [w for w in model.parameters() if id(w) not in known]}


def _is_one(model: Seq2SeqModel) -> bool:
    return model.parts.unembed.weight is model.parts.embedding.weight


def are_tied(model: Model) -> bool:
    """Whether a model's unembedding is its token embedding, in memory or number by number."""

    def same_numbers(one: DecoderOnly) -> bool:
        embedding, unembedding = one.W_E.data, one.W_U.data.T
        return embedding.shape == unembedding.shape and torch.equal(embedding, unembedding)

    return by_kind(model, same_numbers, _is_one)


def site_outside(base: Model, other: Model, site: str) -> str:
    """What is exchanged outside of the layers: of tied embeddings always both ends."""
    known = weights_outside(base)
    if site not in known:
        raise UserError(
            f"Outside of its layers the model has no {site!r}: expected one of "
            f"{', '.join(name for name in known if name != TIED)}; name another site."
        )
    if not (are_tied(base) and are_tied(other)):
        return site
    if site == UNEMBED:
        raise UserError(
            "In both models the unembedding is the token embedding, so that moving one moves the "
            "other: expected site 'embed', which exchanges both ends."
        )
    return TIED if site == EMBED else site

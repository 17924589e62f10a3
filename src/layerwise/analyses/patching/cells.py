"""Cells of patching: a site of a layer, one head of it or not, at some positions.

Positions are named by where they stand relative to what differs between the two prompts, so
that pairs can be averaged and prompts of unequal length aligned. What the engine does not do is
patched by plain hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float

from layerwise.errors import unknown_name
from layerwise.models.instance.kinds import (
    Model,
    decoder_prefix,
    hook_name,
    is_seq2seq,
    model_inputs,
    n_encoder_layers,
    n_layer_heads,
)
from layerwise.sweep import Intervention, PatchSite, patch
from layerwise.sweep.requests import Tokens
from layerwise.sweep.walk.readout import final_logits
from layerwise.tasks import PatchingPrompts
from layerwise.tasks.pairs import changed_spans

from .tables import (
    ALL,
    ANSWER,
    BEFORE,
    HEAD_LABELS,
    LABELS,
    OF_DECODER,
    OF_PROMPT,
    START,
    order_runs,
)

OF_BLOCK = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "pattern")
OF_CROSS = ("resid_mid_cross", "cross_attn_out", "cross_z", "cross_pattern")
# What cross-attention looks at: keys and values of the input's tokens, made in a decoder layer.
OF_INPUT = ("cross_k", "cross_v")
PATCH_SITES = (*OF_BLOCK, *OF_CROSS, *OF_INPUT)
HEAD_SITES = ("z", "pattern", "cross_z", "cross_pattern")
PATTERNS = ("pattern", "cross_pattern")
Where = Literal["prompt", "decoder"]
# Of the tokens between the changed ones and the last, at most so many are patched.
FURTHER = 4
Places = tuple[tuple[int, int], ...]


def refuse_unknown_places(
    sites: Sequence[str] | None,
    positions: Sequence[str] | None,
    known_sites: Sequence[str] = PATCH_SITES,
    known_positions: Sequence[str] = LABELS,
) -> None:
    """Refuse sites and labels of positions that a model does not have, or that no model has."""
    for what, given, known in (
        ("site", sites, known_sites), ("position", positions, known_positions)
    ):  # fmt: skip
        for name in given or ():
            if name not in known:
                raise unknown_name(what, name, known)


@dataclass(frozen=True)
class PatchCell:
    """One patch: a site of a layer or of one of its heads, at some positions."""

    site: str
    layer: int
    head: int | None
    label: str  # of the position; ``all`` for all that differ between the runs
    places: Places  # positions in the run that is patched, each with that in the source run

    @property
    def place(self) -> tuple[int, int] | tuple[None, None]:
        """The position that is patched and that in the source run; nothing for ``all``."""
        return (None, None) if self.label == ALL else self.places[0]

    def index(self, pos: int) -> tuple[int, ...]:
        """Index of a position of the cell in the activation of a prompt."""
        if self.head is None:
            return (pos,)
        return (self.head, pos) if self.site in PATTERNS else (pos, self.head)

    def row(self) -> dict[str, Any]:
        """The columns of tables that name it."""
        named = {"site": self.site, "layer": self.layer, "head": self.head}
        return {**named, "pos": self.place[0], "pos_label": self.label}

    def intervention(self) -> Intervention:
        """The patch as the engine takes it."""
        site: Any = self.site
        pos, source_pos = self.places[0]
        first = patch(site, self.layer, pos, self.head, source_pos=source_pos)
        if self.label != ALL:
            return first
        edits = tuple(PatchSite(self.layer, site, pos, self.head, at) for pos, at in self.places)
        return Intervention(
            f"{first.id.partition(',pos=')[0]},pos={ALL}", "patch", self.site, edits
        )


@dataclass(frozen=True)
class PatchingLayout:
    """Layers of a model that have each site, and where these can be patched."""

    n_encoder: int  # layers; 0 in a decoder-only model
    heads: tuple[int, ...]  # by layer
    n_begins: int  # tokens that a decoder of two stacks begins with

    @classmethod
    def for_model(cls, model: Model) -> PatchingLayout:
        """The layout of a model."""
        heads = tuple(n_layer_heads(model, layer) for layer in range(model.cfg.n_layers))
        return cls(n_encoder_layers(model), heads, len(decoder_prefix(model)))

    def parts(self, site: str) -> list[tuple[range, Where]]:
        """The layers that have a site, with where its positions are counted."""
        encoder, decoder = range(self.n_encoder), range(self.n_encoder, len(self.heads))
        if not self.n_encoder:
            return [(decoder, "prompt")] if site in OF_BLOCK else []
        if site in OF_INPUT:
            return [(decoder, "prompt")]
        # Of a single token a decoder's self-attention sees nothing else.
        own: list[tuple[range, Where]] = [(decoder, "decoder")]
        own = [] if site == "pattern" and self.n_begins == 1 else own
        return own if site in OF_CROSS else [(encoder, "prompt"), *own]

    def sites(self) -> tuple[str, ...]:
        """The sites that there are."""
        return tuple(site for site in PATCH_SITES if self.parts(site))

    def labels(self, sites: Sequence[str]) -> tuple[str, ...]:
        """The labels of the positions that any of some sites can have."""
        wheres = {where for site in sites for _, where in self.parts(site)}
        of_prompt = OF_PROMPT if self.n_encoder else OF_PROMPT[1:]
        of_decoder = OF_DECODER if self.n_begins > 1 else OF_DECODER[1:]
        return (
            *(of_prompt if "prompt" in wheres else ()),
            *(of_decoder if "decoder" in wheres else ()),
            ALL,
        )

    def cells(
        self, prompts: PatchingPrompts, direction: str, site: str, labels: Sequence[str] | None
    ) -> Iterator[PatchCell]:
        """The cells of one pair and site; at the site's usual positions if no labels are given."""
        for layers, where in self.parts(site):
            once = where == "decoder" and self.n_begins == 1  # all is the answer's position
            usual = HEAD_LABELS if site in HEAD_SITES and not once else LABELS[:-1]
            labelled = (
                places_in_decoder(self.n_begins)
                if where == "decoder"
                else places_in_prompt(prompts, both_ways=self.n_encoder > 0)
            )
            for label, pairs in labelled:
                if label not in (labels or usual):
                    continue
                places = tuple(order_runs(a, b, direction) for a, b in pairs)
                for layer in layers:
                    heads = range(self.heads[layer]) if site in HEAD_SITES else (None,)
                    yield from (PatchCell(site, layer, head, label, places) for head in heads)


Pairs = list[tuple[int, int]]


def paired_positions(clean: Tokens, corrupted: Tokens) -> tuple[Pairs, Pairs, Pairs]:
    """Positions of two prompts that stand for each other: before, in and after what differs."""
    # In prompts of unequal length the first and the last changed tokens do; those between are
    # alone.
    spans = changed_spans(clean, corrupted)
    changed = list(zip(*spans, strict=False))
    if changed and len(spans[0]) != len(spans[1]):
        changed = [*changed[:-1][:1], (spans[0][-1], spans[1][-1])]
    n_after = len(clean) - spans[0].stop
    after = [(len(clean) - left, len(corrupted) - left) for left in range(n_after, 0, -1)]
    return [(at, at) for at in range(spans[0].start)], changed, after


def places_in_prompt(
    prompts: PatchingPrompts, *, both_ways: bool = False
) -> list[tuple[str, Places]]:
    """Labels, each with the positions in the clean and the corrupted prompt that it stands for."""
    # Those of Meng et al. 2022 (arXiv:2202.05262, figure 2), with "changed" for "subject".
    before, changed, after = paired_positions(prompts.clean, prompts.corrupted)
    labelled = [(BEFORE, pair) for pair in before[:: _step(len(before))] if both_ways]
    labels = ["first changed", *["middle changed"] * (len(changed) - 2), "last changed"]
    labelled += list(zip(labels[len(labels) - len(changed) :], changed, strict=True))
    if len(after) > 1:
        labelled.append(("next", after[0]))
    labelled += [("further", pair) for pair in after[1:-1][:: _step(len(after) - 2)]]
    # where nothing follows what differs, its last token is the prompt's
    last = after[-1] if after else labelled.pop()[1]
    places = [(label, (pair,)) for label, pair in (*labelled, ("last", last))]
    if len(prompts.clean) != len(prompts.corrupted):
        return places
    return [*places, (ALL, (*(before if both_ways else ()), *changed, *after))]


def _step(n: int) -> int:
    """The step by which a few of n positions are taken."""
    return max(1, -(-n // FURTHER))


def places_in_decoder(n_begins: int) -> list[tuple[str, Places]]:
    """The same for the tokens that a decoder begins with; the answer is read at the last one."""
    places = tuple((pos, pos) for pos in range(n_begins))
    labels = [START] * (n_begins - 1) + [ANSWER]
    return [*((label, (at,)) for label, at in zip(labels, places, strict=True)), (ALL, places)]


AT_ONCE = 16
Hook = tuple[str, Callable[..., Any]]


@torch.inference_mode()
def hooked_logprobs(
    model: Model, tokens: Tokens, source: Tokens, cells: Sequence[PatchCell]
) -> Float[torch.Tensor, "cell d_vocab"]:
    """Log-probabilities of the token after a prompt, under each patch."""
    names = {hook_name(model, cell.layer, cell.site) for cell in cells}
    cache: dict[str, torch.Tensor] = {}

    def keep(tensor: torch.Tensor, hook: Any) -> None:
        cache[hook.name] = tensor

    answer_logits(model, [source], [(name, keep) for name in names])
    logprobs = []
    for start in range(0, len(cells), AT_ONCE):
        some = cells[start : start + AT_ONCE]
        logits = answer_logits(model, [tokens] * len(some), _hooks(model, some, cache))
        logprobs.append(logits.double().log_softmax(-1))
    return torch.cat(logprobs)


@torch.inference_mode()
def intact_logprobs(model: Model, tokens: Tokens) -> Float[torch.Tensor, " d_vocab"]:
    """Log-probabilities of the token after a prompt."""
    return answer_logits(model, [tokens], [])[0].double().log_softmax(-1)


def answer_logits(
    model: Model, prompts: Sequence[Tokens], hooks: Sequence[Hook]
) -> Float[torch.Tensor, "row d_vocab"]:
    """Logits of the token after each prompt."""
    run = partial(model.run_with_hooks, *model_inputs(model, prompts), fwd_hooks=list(hooks))
    if is_seq2seq(model):
        return run()[:, -1]
    # stopping before the unembedding, which would be used at every position
    resid = run(stop_at_layer=model.cfg.n_layers)
    return final_logits(model, resid[:, -1])


def _hooks(model: Model, cells: Sequence[PatchCell], cache: Any) -> list[Hook]:
    """A hook for each name, that changes the rows of its own cells."""
    rows: dict[str, list[tuple[int, PatchCell]]] = {}
    for row, cell in enumerate(cells):
        rows.setdefault(hook_name(model, cell.layer, cell.site), []).append((row, cell))

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        patched, value = tensor.clone(), cache[hook.name][0]
        for row, cell in rows[hook.name]:
            for pos, source in cell.places:
                patched[(row, *cell.index(pos))] = value[cell.index(source)]
        return patched

    return [(name, put) for name in rows]

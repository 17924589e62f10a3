"""Changes of an ablation: a kind, a site, and some layers and heads, made into interventions.

Items may have several draws, of noise or of the item that they are resampled from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from layerwise import stats
from layerwise.errors import UserError, count_noun, unknown_name
from layerwise.models.instance.kinds import Model, heads_per_key, n_encoder_layers, n_layer_heads
from layerwise.runs.options import KINDS
from layerwise.runs.setup import Setup
from layerwise.sweep import (
    Intervention,
    Sweep,
    mean,
    mean_activations,
    noise,
    noise_basis,
    of_kv_group,
    position_means,
    resample,
    skip,
    together,
    zero,
)
from layerwise.sweep.changes.edits import CROSS_SITES, AddSite, Edit
from layerwise.sweep.requests import LogLikelihood, Request, Tokens
from layerwise.sweep.run import SweepStats
from layerwise.tasks import TaskRequest
from layerwise.tasks.items import Item

# Kinds of change that are drawn by the seed, for each item.
RESAMPLE, NOISE = DRAWN = ("resample", "noise")
_SUBLAYERS = ("attn_out", "mlp_out", "z", "kv_group", "cross_attn_out", "cross_z")
_ANY = ("resid_pre", "resid_mid", "resid_mid_cross", "resid_post", *_SUBLAYERS)
SITES = {"skip": ("layer", *_SUBLAYERS)} | dict.fromkeys(KINDS[1:], _ANY)
BY_HEAD = ("z", "kv_group", "cross_z")
MEANS = ("pooled", "position")
# A change, and which draw of its noise or donor it is made with; None if it draws nothing.
DrawnChange = tuple[Intervention, int | None]
# Makes a change to a site of a layer, or to a head of it.
MakeChange = Callable[..., Intervention]
# Gives the prompts that means and noise are taken from; other changes do not ask for them.
Contexts = Callable[[], Sequence[Tokens]]


@dataclass(frozen=True)
class AblationSpec:
    """A kind of change, and where it is made."""

    kind: str  # ``skip``, ``zero``, ``mean``, ``resample`` or ``noise``
    site: str  # what is changed
    layers: tuple[int, ...]  # which layers
    # Which heads of ``z``, or which key/value groups; None for sites without heads.
    heads: tuple[int, ...] | None = None
    block: int = 1  # so many layers, one after the other, are changed at once
    as_one: bool = False  # change all layers and heads at once instead of one after the other
    mean_by: str = "pooled"  # ``pooled`` over positions, or by ``position``
    # How many draws of noise, or of another item to be resampled from, each item has.
    draws: int = 1

    @classmethod
    def for_model(
        cls,
        model: Model,
        kind: str,
        site: str | None,
        layers: tuple[int, ...],
        *,
        heads: Sequence[int] | None = None,
        **how: Any,
    ) -> AblationSpec:
        """Changes that can be made to a model."""
        site = site or ("layer" if kind == "skip" else "resid_post")
        refuse_unknown_site(kind, site, cross=bool(n_encoder_layers(model)))
        layers = _with_site(model, site, layers)
        spec = cls(kind, site, layers, _heads(model, site, heads), **how)
        if spec.mean_by != "pooled" and kind != "mean":
            raise UserError(
                f"Means by {spec.mean_by} were asked for, but kind is {kind!r}; use mean."
            )
        refuse_draws(kind, spec.draws)
        _refuse_missing_sites(model, spec)
        return spec

    def settings(self) -> dict[str, Any]:
        """Settings that make them these and no others; the usual is left out."""
        usual = {"block": 1, "as_one": False, "mean_by": "pooled", "draws": 1}
        given = {} if self.heads is None else {"heads": list(self.heads)}
        given |= {key: getattr(self, key) for key in usual if getattr(self, key) != usual[key]}
        return {"kind": self.kind, "site": self.site, "layers": list(self.layers), **given}

    def interventions(self, setup: Setup, contexts: Contexts) -> list[Intervention]:
        """All of the changes, with means and noise taken from some contexts."""
        make = _PLAIN.get(self.kind)
        if make is None:
            site: Any = "z" if self.site == "kv_group" else self.site
            read = (setup.model, contexts(), [site])
            budget = {"memory_budget": setup.memory_budget}
            if self.kind == NOISE:
                make = _noise_change(noise_basis(*read, seed=setup.seed, **budget))
            else:
                take = mean_activations if self.mean_by == "pooled" else position_means
                make = _mean_change(take(*read, **budget))
        return self._make_changes(make, setup.model)

    def same_cost_changes(self, model: Model) -> list[Intervention]:
        """Changes that cost the same, without running anything."""
        alike = _PLAIN | {NOISE: _noise_change(defaultdict(lambda: torch.zeros(1, 1)))}
        return self._make_changes(alike.get(self.kind, zero), model)

    def _make_changes(self, make: MakeChange, model: Model) -> list[Intervention]:
        starts = range(len(self.layers) - self.block + 1)
        blocks = [self.layers[start : start + self.block] for start in starts]
        changes = [
            together([self._make_change(make, layer, head, model) for layer in block])
            for head in self.heads or (None,)
            for block in blocks
            if head is None or all(head < n_layer_heads(model, layer) for layer in block)
        ]
        return [together(changes)] if self.as_one else changes

    def _make_change(
        self, make: MakeChange, layer: int, head: int | None, model: Model
    ) -> Intervention:
        if head is None or self.site != "kv_group":
            return make(self.site, layer, head)
        return of_kv_group(head, heads_per_key(model.cfg), lambda head: make("z", layer, head))


def _noise_change(table: Mapping[tuple[Any, int], torch.Tensor]) -> MakeChange:
    return lambda site, layer, head: noise(site, layer, table[site, layer], head)


def _mean_change(means: Mapping[tuple[Any, int], torch.Tensor]) -> MakeChange:
    return lambda site, layer, head: mean(site, layer, means[site, layer], head)


# Changes that need nothing but their place.
_PLAIN: dict[str, MakeChange] = {
    "skip": lambda site, layer, head: skip(layer, site, head), "zero": zero, RESAMPLE: resample,
}  # fmt: skip


def refuse_unknown_site(kind: str, site: str | None, cross: bool = True) -> None:
    """Refuse a site that a kind of change cannot be made to."""
    known = [name for name in SITES[kind] if cross or name not in CROSS_SITES]
    if site is not None and site not in known:
        raise unknown_name(f"site for kind {kind!r}", site, known)


def refuse_draws(kind: str, draws: int) -> None:
    """Refuse no draws, and several of a kind of change that draws nothing."""
    if draws < 1:
        raise UserError(f"{draws} draws were asked for; expected at least 1 for each item.")
    if draws > 1 and kind not in DRAWN:
        raise UserError(
            f"{draws} draws were asked for, but kind {kind!r} draws nothing; use "
            f"{' or '.join(DRAWN)}, or leave the draws out."
        )


def _with_site(model: Model, site: str, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Of some layers, those that have a site: only the decoder has cross-attention."""
    if site not in CROSS_SITES:
        return layers
    left = tuple(layer for layer in layers if layer >= n_encoder_layers(model))
    if not left:
        raise UserError(
            f"No layer that was named has {site}: only the decoder looks at the encoder; name "
            "decoder layers, such as decoder.0."
        )
    return left


def _heads(model: Model, site: str, heads: Sequence[int] | None) -> tuple[int, ...] | None:
    cfg = model.cfg
    if site not in BY_HEAD:
        if heads is not None:
            raise UserError(
                f"Heads were named for site {site!r}, which has none; use site z or kv_group."
            )
        return None
    n_heads = cfg.n_heads // heads_per_key(cfg) if site == "kv_group" else cfg.n_heads
    wanted = tuple(range(n_heads)) if heads is None else tuple(dict.fromkeys(heads))
    named = "key/value groups" if site == "kv_group" else "heads"
    for head in wanted:
        if not 0 <= head < n_heads:
            raise UserError(f"{head} is out of range: the model has {named} 0 to {n_heads - 1}.")
    if not wanted:
        raise UserError(f"No {named} are left to change; name at least one.")
    return wanted


def _refuse_missing_sites(model: Model, changes: AblationSpec) -> None:
    """Refuse sites that a model has not, and blocks that its layers do not make."""
    cfg, site, n_layers = model.cfg, changes.site, len(changes.layers)
    if site == "mlp_out" and cfg.attn_only:
        raise UserError("The model's blocks have no MLP; choose site attn_out.")
    if site == "resid_mid" and (cfg.attn_only or cfg.parallel_attn_mlp):
        raise UserError(
            "In this model nothing is between attention and MLP; choose site resid_pre, attn_out "
            "or resid_post."
        )
    if not 1 <= changes.block <= n_layers:
        raise UserError(
            f"Blocks of {count_noun(changes.block, 'layer')} were asked for; expected from "
            f"1 to the "
            f"{n_layers} that are changed."
        )
    in_a_row = changes.layers == tuple(range(changes.layers[0], changes.layers[0] + n_layers))
    if changes.block > 1 and not in_a_row:
        raise UserError("Blocks need layers that follow one another; name a range such as 3-8.")
    if changes.block > 1 and changes.as_one:
        raise UserError("Blocks and everything at once were both asked for; choose one of them.")


def resampling_partners(
    seed: int, items: Sequence[Item], name: str, draw: int = 0
) -> dict[str, Item]:
    """By item id the other item whose prompt it is resampled from.

    Items stand in a random circle; each takes the next one, in a further draw the one behind it.
    """
    if len(items) < 2:
        raise UserError(
            f"Task {name!r} has {len(items)} item, and resampling takes activations from another "
            "one; take more items."
        )
    if draw >= len(items) - 1:
        raise UserError(
            f"Task {name!r} has {len(items)} items, so each can be resampled from "
            f"{count_noun(len(items) - 1, 'other')}, which is fewer than the draws; use "
            "fewer draws, or more items."
        )
    order = stats.generator(seed, f"resample {name}").permutation(len(items)).tolist()
    circle = zip(order, [*order[draw + 1 :], *order[: draw + 1]], strict=True)
    return {items[item].id: items[other] for item, other in circle}


def with_draws(changes: Sequence[Intervention], n_draws: int) -> list[DrawnChange]:
    """Changes, those by noise or by resampling once for each of so many draws."""
    return [
        (change, draw)
        for change in changes
        for draw in (range(n_draws) if change.kind in DRAWN else (None,))
    ]


def sweep_by_draw(
    sweeps: Callable[[Sequence[Intervention], Sequence[TaskRequest]], Sweep],
    drawn: Sequence[DrawnChange],
    requests_of: Callable[[int], Sequence[TaskRequest]],
    seed: int,
) -> Sweep:
    """Outcomes of changes, each item's noise being its own.

    Of noise that items share, an interval over items would not know how it might have come out.
    """
    outcomes: list[list] = [[] for _ in drawn]
    work = SweepStats()
    by_draw: dict[int, list[int]] = {}
    noisy: dict[int, list[int]] = {}
    for place, (change, draw) in enumerate(drawn):
        (noisy if change.kind == NOISE else by_draw).setdefault(draw or 0, []).append(place)
    for draw, places in by_draw.items():
        swept = sweeps([drawn[place][0] for place in places], requests_of(draw))
        work += swept.stats
        for place, answers in zip(places, swept.outcomes, strict=True):
            outcomes[place] = answers
    first = requests_of(0)
    by_item: dict[str, list[int]] = {}
    for at, request in enumerate(first):
        by_item.setdefault(request.item, []).append(at)
    in_order = sorted(place for places in noisy.values() for place in places)
    for place in in_order:
        outcomes[place] = [None] * len(first)
    for positions in by_item.values() if noisy else ():
        asked = [first[at] for at in positions]
        names = seed, asked[0].task, asked[0].item
        made: dict[int, Intervention] = {}
        for draw, places in noisy.items():
            changes = [drawn[place][0] for place in places]
            requests = [each.request for each in asked]
            # of the first draw noise is what it would be if there were no others
            further = (f"draw {draw}",) if draw else ()
            own = with_own_draws(changes, requests, *names, *further)
            made |= dict(zip(places, own, strict=True))
        swept = sweeps([made[place] for place in in_order], asked)
        work += swept.stats
        for place, answers in zip(in_order, swept.outcomes, strict=True):
            for at, outcome in zip(positions, answers, strict=True):
                outcomes[place][at] = outcome
    return Sweep(outcomes, work)


def with_own_draws(
    changes: Sequence[Intervention], requests: Sequence[Request], seed: int, *names: str
) -> list[Intervention]:
    """Noise of the same covariance, drawn anew for each position of an item's requests.

    Rows of the shared table times standard normal numbers; heads of a layer share their draws.
    """
    # of each request all that is changed at most, and one for what a decoder begins with
    n_positions = 1 + max(
        len(request.context)
        + (len(request.continuation) if isinstance(request, LogLikelihood) else request.max_tokens)
        for request in requests
    )
    known: dict[tuple[str, int], torch.Tensor] = {}

    def draw_edit(edit: Edit) -> Edit:
        if not isinstance(edit, AddSite):
            return edit
        place, table = (edit.site, edit.layer), edit.value
        if place not in known:
            # by row, so that a position's draw does not depend on how many others there are
            draws = stats.generator(seed, NOISE, *names, edit.site, str(edit.layer))
            parts = torch.from_numpy(draws.standard_normal((n_positions, len(table)))).to(table)
            mixed = parts @ table.flatten(1) / len(table) ** 0.5
            known[place] = mixed.unflatten(1, table.shape[1:])
        return replace(edit, value=known[place])

    return [replace(change, edits=tuple(map(draw_edit, change.edits))) for change in changes]

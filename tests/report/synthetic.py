"""Made-up tables with the columns of a run's Parquet files and known answers planted in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pandas as pd

from layerwise.results import (
    AblationResult,
    EmergenceResult,
    Facts,
    LensResult,
    ModelFacts,
    PatchingResult,
    Result,
    TaskFacts,
)
from layerwise.storage.parquet import frame
from layerwise.storage.run_tables import RunTables

HOSTILE = "<script>alert('x')</script>"
CHANCE = {"letter": 0.25, "continuation": 0.25, "generate": 0.0}
CAPABILITIES = ("retrieval", "knowledge", "reasoning", "coherence")


@dataclass(frozen=True)
class Plan:
    """Planted truth: the layers each task loses its answer without, and where it has none."""

    n_layers: int = 30
    n_items: int = 60
    tasks: tuple[tuple[str, str], ...] = (
        ("key-value look-up, words", "retrieval"),
        ("key-value look-up, random identifiers", "retrieval"),
        ("facts", "knowledge"),
        ("facts, open book, contradicting world knowledge", "knowledge"),
        ("sums", "reasoning"),
        ("two-hop", "reasoning"),
        (HOSTILE, "coherence"),
        ("brackets $x$ $y", "coherence"),
    )
    protocols: tuple[str, ...] = ("letter", "continuation", "generate")
    silent: tuple[tuple[str, str], ...] = (("two-hop", "letter"), ("two-hop", "continuation"))
    intact: float = 0.9
    critical: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {"letter": (0,), "continuation": (0, 1), "generate": (0, 1, 12, 13)}
    )
    kinds: tuple[tuple[str, str], ...] = (("skip", "layer"),)


def wide_plan(n_tasks: int, n_layers: int, **changes) -> Plan:
    tasks = tuple(
        (f"task number {i} with a long name", CAPABILITIES[i % 4]) for i in range(n_tasks)
    )
    return Plan(n_layers=n_layers, tasks=tasks, silent=((tasks[0][0], "letter"),), **changes)


def records(plan: Plan, seed: int = 0) -> pd.DataFrame:
    """Ablation records; critical layers bring the answers down to chance."""
    rng = np.random.default_rng(seed)
    parts = []
    for task, capability in plan.tasks:
        for protocol in plan.protocols:
            chance, n = CHANCE[protocol], plan.n_items
            silent = (task, protocol) in plan.silent
            # Exactly at chance, so that having no signal does not hang on the seed.
            at_chance = np.arange(n) < round(chance * n)
            intact = at_chance if silent else rng.random(n) < plan.intact
            blocks = [("intact", None, pd.NA, intact)]
            for kind, site in plan.kinds:
                for layer in range(plan.n_layers):
                    hit = layer in plan.critical[protocol] and not silent
                    changed = intact ^ (rng.random(n) < 0.02)
                    lost = rng.random(n) < chance
                    blocks.append((kind, site, layer, lost if hit else changed))
            parts.append(_rows(blocks, task, capability, protocol, n))
    return _with_scores(pd.concat(parts, ignore_index=True), rng)


def _rows(blocks: list, task: str, capability: str, protocol: str, n: int) -> pd.DataFrame:
    kinds, sites, layers, correct = zip(*blocks, strict=True)
    ids = [_id(kind, site, layer) for kind, site, layer, _ in blocks]
    return pd.DataFrame(
        {
            "intervention": np.repeat(ids, n),
            "kind": np.repeat(kinds, n),
            "site": np.repeat(np.array(sites, dtype=object), n),
            "layer": pd.array(layers, dtype="Int64").repeat(n),
            "task": task,
            "capability": capability,
            "item": [f"{task}/{i:04d}" for i in range(n)] * len(blocks),
            "protocol": protocol,
            "correct": np.concatenate(correct),
        }
    )


def _id(kind: str, site: str | None, layer: int) -> str:
    if kind == "intact":
        return kind
    return f"{kind}:{'' if site == 'layer' else f'{site},'}layer={layer}"


def _with_scores(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    generates = (table["protocol"] == "generate").to_numpy()
    correct = table["correct"].to_numpy()
    gold = np.where(correct, -0.5, -3.0) + rng.normal(0, 0.1, len(table))
    return table.assign(
        correct_norm=pd.array(np.where(generates, None, correct), dtype="boolean"),
        gold_logprob=np.where(generates, np.nan, gold),
        margin=np.where(generates, np.nan, gold + 1.5),
        early_logprob=np.nan,
        late_logprob=np.nan,
        generated=np.where(generates, f"{HOSTILE} a", None),
        extracted=np.where(generates, HOSTILE, None),
        head=None,
        layers=[[] if pd.isna(layer) else [layer] for layer in table["layer"]],
        heads=None,
        chosen=None,
        correct_first=None,
        correct_forced=None,
    )


def lens(plan: Plan, seed: int = 0, protocols: tuple[str, ...] = ("letter", "continuation")):
    """Lens rows in which the answer rises to the top around two thirds of the depth."""
    rng = np.random.default_rng(seed)
    parts = []
    layers = np.arange(-1, plan.n_layers)
    for t, (task, capability) in enumerate(plan.tasks):
        for protocol in protocols:
            rise = 1 / (1 + np.exp(-(layers / plan.n_layers - 0.6 - 0.02 * t) * 12))
            logprob = -11 + 10.5 * rise + rng.normal(0, 0.8, (plan.n_items, 1))
            n = plan.n_items
            ranks = np.exp((1 - rise) * 9 + rng.normal(0, 0.5, (n, 1)))
            parts.append(
                pd.DataFrame(
                    {
                        "task": task,
                        "capability": capability,
                        "item": np.repeat([f"{task}/{i:04d}" for i in range(n)], len(layers)),
                        "protocol": protocol,
                        "layer": pd.array(np.tile(layers, n), dtype="Int64"),
                        "lens": "logit",
                        "over": "prompt",
                        "site": "resid_post",
                        "pos": pd.array([-1] * (n * len(layers)), dtype="Int64"),
                        "token": np.repeat([f" {'abcd'[i % 4]}" for i in range(n)], len(layers)),
                        "blind": pd.array([None] * (n * len(layers)), dtype="boolean"),
                        "options": pd.array([None] * (n * len(layers)), dtype="Int64"),
                        "rank": pd.array(ranks.astype(int).ravel() - 1, dtype="Int64"),
                        "final_rank": pd.array(ranks.astype(int).ravel() - 1, dtype="Int64"),
                        "logprob": np.minimum(logprob, -0.01).ravel(),
                        "entropy": np.tile(7 - 5 * rise, n) + rng.normal(0, 0.2, n * len(layers)),
                        "kl": np.tile(6 * (1 - rise), n),
                        "top_tokens": [[HOSTILE, "a", "b", "c", "d"]] * (n * len(layers)),
                    }
                )
            )
    ranks = {name: lambda t, name=name: t[name].clip(lower=0) for name in ("rank", "final_rank")}
    return pd.concat(parts, ignore_index=True).assign(**ranks)


def patching_rows(
    plan: Plan, hand_over: int = 12, n_pairs: int = 12, seed: int = 0
) -> pd.DataFrame:
    """Patching rows: the changed token carries the answer before ``hand_over``, the last after."""
    rng = np.random.default_rng(seed)
    labels = ("first changed", "last changed", "next", "further", "further", "last")
    rows = []
    for task, capability in plan.tasks:
        for pair in range(n_pairs):
            for layer in range(plan.n_layers):
                for pos, name in enumerate(labels):
                    share = 0.0 if name in ("next", "further") else float(layer < hand_over)
                    share = 1 - share if name == "last" else share
                    share = share * 0.9 + rng.normal(0, 0.08) - (0.2 if name == "further" else 0)
                    rows.append(
                        {
                            "task": task,
                            "capability": capability,
                            "item": f"{task}/{pair:04d}",
                            "protocol": "continuation",
                            "direction": "denoising",
                            "site": "resid_pre",
                            "layer": layer,
                            "pos": pos,
                            "source_pos": pos,
                            "pos_label": name,
                            "clean_diff": 3.0,
                            "corrupted_diff": -3.0,
                            "patched_diff": -3 + 6 * share,
                            "recovered": share,
                        }
                    )
    return frame("patching", rows)


def emergence(plan: Plan) -> pd.DataFrame:
    """Depth summaries: each capability a little deeper than the one before."""
    methods = [("ablation", p) for p in plan.protocols]
    methods += [("logit lens", "letter"), ("activation patching", "continuation")]
    rows = []
    for i, capability in enumerate(CAPABILITIES):
        for j, (method, protocol) in enumerate(methods):
            for k, measure in enumerate(("half-effect depth", "centre of mass", "critical set")):
                if measure == "critical set" and method != "ablation":
                    continue
                critical = plan.critical[protocol] if measure == "critical set" else None
                depth = 0.15 + 0.15 * i + 0.04 * j + 0.05 * k
                depth = len(critical) / plan.n_layers if critical else depth
                scale = plan.n_layers if critical else plan.n_layers - 1
                rows.append(
                    {
                        "capability": capability,
                        "protocol": protocol,
                        "method": method,
                        "measure": measure,
                        "axis": "computation",
                        "estimate": depth,
                        "low": depth - 0.05,
                        "high": depth + 0.07,
                        "layer": depth * scale,
                        "layer_low": (depth - 0.05) * scale,
                        "layer_high": (depth + 0.07) * scale,
                        "layers": list(critical) if critical else None,
                        "n_items": 2 * plan.n_items,
                        "n_tasks": 2,
                        "n_resamples": 1000,
                        "n_dropped": 0,
                        "tasks": ", ".join(t for t, c in plan.tasks if c == capability),
                    }
                )
    return frame("emergence", rows)


def order(plan: Plan, p_holm: float = 0.01) -> pd.DataFrame:
    """Order tests: retrieval before knowledge is significant at ``p_holm``, nothing else is."""
    rows = []
    for i, first in enumerate(CAPABILITIES):
        for second in CAPABILITIES[i + 1 :]:
            for protocol in plan.protocols:
                for measure in ("half-effect depth", "prediction depth"):
                    planted = (first, second) == ("retrieval", "knowledge")
                    planted = planted and protocol == "generate"
                    rows.append(
                        {
                            "first": first,
                            "second": second,
                            "protocol": protocol,
                            "method": "ablation",
                            "measure": measure,
                            "difference": 0.2 if planted else 0.02,
                            "low": 0.1 if planted else -0.1,
                            "high": 0.3 if planted else 0.14,
                            "p": 0.0005 if planted else 0.6,
                            "p_holm": p_holm if planted else 1.0,
                            "significant": planted and p_holm < 0.05,
                            "shared": [],
                            "accuracy_first": 0.9,
                            "accuracy_second": 0.6,
                            "p_accuracy": 0.002 if planted else 0.2,
                        }
                    )
    return pd.DataFrame(rows)


def agreement(plan: Plan, p_holm: float = 0.002) -> pd.DataFrame:
    """Ablation and lens differ on retrieval alone; the layers' ranks agree everywhere."""
    pairs = [("ablation", "logit lens", name) for name in plan.protocols]
    pairs.append(("activation patching", "logit lens", "continuation"))
    rows = []
    for first, second, protocol in pairs:
        for capability in CAPABILITIES:
            differs = (first, capability) == ("ablation", "retrieval")
            values = {"half-effect depth": 0.4 if differs else 0.02, "rank correlation": 0.8}
            for measure, value in values.items():
                sure = measure == "rank correlation" or value == 0.4
                depths = measure != "rank correlation"
                rows.append(
                    {
                        "capability": capability,
                        "protocol": protocol,
                        "first": first,
                        "second": second,
                        "measure": measure,
                        "first_depth": 0.2 if depths else np.nan,
                        "second_depth": 0.2 + value if depths else np.nan,
                        "estimate": value,
                        "low": value - 0.12,
                        "high": min(1, value + 0.15),
                        "p": p_holm / 40 if sure else 0.4,
                        "p_holm": p_holm if sure else 1.0,
                        "significant": sure and p_holm < 0.05,
                        "n_items": 2 * plan.n_items,
                        "n_tasks": 2,
                        "tasks": ",".join(t for t, c in plan.tasks if c == capability),
                    }
                )
    return pd.DataFrame(rows)


def interaction(plan: Plan, p_holm: float = 0.0012) -> pd.DataFrame:
    """Late layers matter to reasoning under ``generate`` alone; else protocols agree."""
    rows = []
    thirds = dict(
        zip(("early", "middle", "late"), np.array_split(range(plan.n_layers), 3), strict=True)
    )
    for capability in CAPABILITIES:
        for first, second in combinations(plan.protocols, 2):
            differs = (capability, second) == ("reasoning", "generate")
            for group, layers in thirds.items():
                one = 0.3 if group == "early" else 0.02
                other = 0.35 if differs and group == "late" else one
                rows.append(
                    {
                        "capability": capability,
                        "first": first,
                        "second": second,
                        "group": group,
                        "layers": layers.tolist(),
                        "share_first": one,
                        "share_first_low": one - 0.05,
                        "share_first_high": one + 0.05,
                        "share_second": other,
                        "share_second_low": other - 0.06,
                        "share_second_high": other + 0.06,
                        "difference": one - other,
                        "low": one - other - 0.07,
                        "high": one - other + 0.07,
                        "n_items": 2 * plan.n_items,
                        "n_tasks": 2,
                        "tasks": ",".join(t for t, c in plan.tasks if c == capability),
                        "p": 0.0001 if differs else 0.3,
                        "p_holm": p_holm if differs else 1.0,
                    }
                )
    return pd.DataFrame(rows)


def facts(plan: Plan, **changes) -> Facts:
    """Facts of a made-up run of the plan, with hostile text wherever a user could put some."""
    model = ModelFacts(
        name="tiny <b>model</b>", hash="ab12" * 16, source=f"folder/{HOSTILE}",
        n_layers=plan.n_layers, n_heads=4, d_model=64, d_vocab=1000, n_ctx=512,
        n_parameters=1_000_000, dtype="float32", device="cpu", parity=1e-5, attention="MHA",
    )  # fmt: skip
    tasks = tuple(
        TaskFacts(
            name=task, capability=capability, description=f"Asks things. {HOSTILE}",
            hash=f"{i:02x}" * 16, n_items=plan.n_items, n_fewshot=4,
            chance={p: CHANCE[p] for p in plan.protocols}, source="built in",
        )
        for i, (task, capability) in enumerate(plan.tasks)
    )  # fmt: skip
    fields = {
        "layerwise": "0.1.0",
        "created": datetime(2025, 1, 2, 3, 4, tzinfo=UTC),
        "model": model,
        "tasks": tasks,
        "protocols": plan.protocols,
        "seed": 0,
        "settings": {"limit": plan.n_items, "note": HOSTILE},
        "versions": {"python": "3.11", "torch": "2.6"},
        "work": ({"analysis": "ablate", "block_passes": 1200, "brute_force_passes": 36000,
                  "seconds": 61.5, "tokens": 90000},),
    }  # fmt: skip
    return Facts(**(fields | changes))


def results(plan: Plan, **changes) -> list[Result]:
    """All four results of a made-up run."""
    told = facts(plan, **changes)
    left_out = pd.DataFrame(
        [
            {
                "capability": "reasoning",
                "protocol": "letter",
                "method": "ablation",
                "task": "two-hop",
                "axis": "computation",
                "reason": "no signal",
            }
        ]
    )
    return [
        AblationResult(records(plan), told),
        LensResult(lens(plan), told),
        PatchingResult(patching_rows(plan), told),
        EmergenceResult(
            emergence(plan), order(plan), agreement(plan), interaction(plan), left_out, told
        ),
    ]


def with_tables(run: RunTables, **tables: pd.DataFrame) -> RunTables:
    """The same run with some tables in place of its own."""
    return replace(run, tables={**run.tables, **tables})

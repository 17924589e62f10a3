"""Growth of a sweep's time and memory: random models, all single layers skipped.

One size is varied at a time, each point in a process of its own. A block pass is one branch
through one block; skipping each of L layers in turn takes L(L+1)/2 of them, the intact model's
included, and as many again for each further walk. No point may take more passes than that, nor
more memory than its budget.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from machine import machine
from measuring import markdown, spread
from peak_memory import peak_growth
from transformers import LlamaConfig, LlamaForCausalLM

from layerwise.models import restride
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.decoder.model import DecoderModel
from layerwise.models.instance.kinds import DecoderOnly
from layerwise.models.libraries.hooked import (
    HookedTransformer,
    HookedTransformerConfig,
    has_hooked_transformer,
)
from layerwise.sweep import Generate, Intervention, LogLikelihood, intact, plan_sweep, skip, sweep
from layerwise.sweep.run import model_shape

HERE = Path(__file__).parent
VOCABULARY = 4096
CONTINUATION = 8
MIB = 2**20
# What a program that caches all activations keeps of a layer: what enters it, what its two
# sublayers write, what leaves it.
SITES = 4
VARIED = {
    "layers": (4, 8, 16, 32, 48),
    "items": (2, 4, 8, 16, 32, 64),
    "context": (16, 32, 64, 128, 256, 512),
    "options": (1, 2, 4, 8, 16),
    "branches": (1, 2, 4, 8, 16),
}
UNITS = {
    "layers": "layers",
    "items": "items",
    "context": "context, tokens",
    "options": "options of an item",
    "branches": "branches (layers skipped)",
}
QUICK = {"layers": (2, 4), "items": (1, 2), "context": (8, 16), "options": (1, 2)}


@dataclass(frozen=True)
class Point:
    """One size of sweep.

    Attributes:
        layers: of the model.
        items: questions, no two with a common beginning but for ``shared``.
        context: tokens of an item's own context.
        options: continuations of an item, of ``CONTINUATION`` tokens each.
        branches: so many single layers are skipped in turn, spread over all; besides, the
            intact model is run.
        shared: tokens of few-shot examples before every context.
        new_tokens: if not 0, so many tokens are generated after each context, without options.
        d_model: width of the model.
        budget: ``memory_budget`` in bytes.
        threads: of torch.
        runs: how often the sweep is timed.
    """

    layers: int = 16
    items: int = 8
    context: int = 64
    options: int = 4
    branches: int = 16
    shared: int = 0
    new_tokens: int = 0
    d_model: int = 128
    budget: int = 64 * MIB
    threads: int = 1
    runs: int = 2

    def with_size(self, name: str, value: int) -> Point:
        """The same but for one size; all layers are skipped unless the branches are varied."""
        branches = value if name == "layers" else self.branches
        return replace(replace(self, branches=branches), **{name: value})


@dataclass(frozen=True)
class PointCost:
    """Cost of one point.

    Attributes:
        seconds: of the fastest run.
        peak: growth of resident memory at its peak in the first run, in bytes.
        walks: times that the layers were walked through.
        block_passes: branches times blocks run, by the engine's count.
        formula: the same by the formula in the module's description.
        token_passes: tokens pushed through a block.
        brute_force_token_passes: the same with one forward per request and skipped layer.
        cached: what all activations of all branches would take, in bytes.
    """

    seconds: float
    peak: int
    walks: int
    block_passes: int
    formula: int
    token_passes: int
    brute_force_token_passes: int
    cached: int


def random_model(layers: int, d_model: int, n_ctx: int) -> DecoderOnly:
    """A model with random weights and blocks as SmolLM2's, by TransformerLens where it has any."""
    if not has_hooked_transformer():
        return over_own_modules(layers, d_model, n_ctx)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        model = HookedTransformer(
            HookedTransformerConfig(
                n_layers=layers, d_model=d_model, n_ctx=n_ctx, d_head=d_model // 8, n_heads=8,
                n_key_value_heads=4, d_mlp=4 * d_model, d_vocab=VOCABULARY, act_fn="silu",
                gated_mlp=True, normalization_type="RMS", positional_embedding_type="rotary",
                rotary_dim=d_model // 8, device="cpu", seed=0,
            )
        ).eval()  # fmt: skip
    restride(model)
    return model


def over_own_modules(layers: int, d_model: int, n_ctx: int) -> DecoderModel:
    """The same sizes by the modules of Hugging Face."""
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=d_model, max_position_embeddings=n_ctx,
        num_attention_heads=8, num_key_value_heads=4, intermediate_size=4 * d_model,
        vocab_size=VOCABULARY, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = LlamaForCausalLM(config).eval()
    return hooked_decoder(original, None, "random")


def random_requests(point: Point) -> list[LogLikelihood | Generate]:
    """Random token ids in the sizes of a point."""
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (n,), generator=generator).tolist())

    examples = tokens(point.shared)
    contexts = [examples + tokens(point.context) for _ in range(point.items)]
    if point.new_tokens:
        return [Generate(context, point.new_tokens) for context in contexts]
    return [
        LogLikelihood(context, tokens(CONTINUATION))
        for context in contexts
        for _ in range(point.options)
    ]


def passes(changes: Sequence[Intervention], layers: int) -> int:
    """Block passes of one walk: the intact model's, and of each branch those after its layer."""
    return layers + sum(layers - 1 - one.layer for one in changes if one.layer is not None)


def measure(point: Point) -> PointCost:
    """Make a model, sweep it, and say what that took; wants a process of its own."""
    torch.set_num_threads(point.threads)
    n_ctx = point.shared + point.context + max(CONTINUATION, point.new_tokens)
    model, requests = random_model(point.layers, point.d_model, n_ctx), random_requests(point)
    changes = [intact(), *(skip(layer) for layer in spread(point.layers, point.branches))]
    sweep(model, changes[:2], requests[:1], memory_budget=MIB)  # what is set up at first use
    with peak_growth() as peak:
        first = sweep(model, changes, requests, memory_budget=point.budget).stats
    others = [
        sweep(model, changes, requests, memory_budget=point.budget).stats
        for _ in range(1, point.runs)
    ]
    batches = plan_sweep(changes, requests, model_shape(model), point.budget).batches
    run = [
        len(r.context) + (r.max_tokens if isinstance(r, Generate) else len(r.continuation)) - 1
        for r in requests
    ]
    itemsize = model.W_E.element_size()
    return PointCost(
        min(stats.seconds for stats in (first, *others)),
        peak.bytes,
        len(batches),
        first.block_passes,
        sum(passes([changes[i] for i in batch.interventions], point.layers) for batch in batches),
        first.token_passes,
        first.brute_force_token_passes,
        sum(run) * point.layers * len(changes) * SITES * point.d_model * itemsize,
    )


def measure_in_new_processes(points: Iterable[Point]) -> list[PointCost]:
    """Measure points one after the other, each in a new process that has all imported."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["layerwise.models.weights.strides", "layerwise.sweep.run"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        return list(pool.map(measure, points))


def refuse_excess(frame: pd.DataFrame) -> None:
    """Stop at work or memory beyond what is promised.

    Raises:
        SystemExit: more block passes than by the formula, or a larger peak than the budget.
    """
    for row in frame.itertuples():
        if row.block_passes > row.formula:
            raise SystemExit(
                f"{row.varied} {row.value}: {row.block_passes} block passes, "
                f"expected at most {row.formula}."
            )
        if row.peak > row.budget:
            raise SystemExit(
                f"{row.varied} {row.value}: a peak of {row.peak / MIB:.0f} MiB, "
                f"expected at most {row.budget / MIB:.0f}."
            )


def results(varied: dict[str, tuple[int, ...]], base: Point) -> pd.DataFrame:
    """One row per point: what was varied, its value, the sizes and what was measured."""
    rows = [(name, value, base.with_size(name, value)) for name in varied for value in varied[name]]
    measured = measure_in_new_processes(point for _, _, point in rows)
    return pd.DataFrame(
        {"varied": name, "value": value, **asdict(point), **asdict(found)}
        for (name, value, point), found in zip(rows, measured, strict=True)
    )


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent of a power law through points (least squares of the logarithms)."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def table(frame: pd.DataFrame) -> str:
    """The points in Markdown."""
    head = (
        "varied|value|seconds|block passes|L(L+1)/2 a walk|walks|ns per token-pass|peak, MiB|"
        "all activations, MiB"
    )
    rows = [
        [
            row.varied, f"{row.value}", f"{row.seconds:.2f}", f"{row.block_passes}",
            f"{row.formula}", f"{row.walks}", f"{row.seconds / row.token_passes * 1e9:.0f}",
            f"{row.peak / MIB:.0f}", f"{row.cached / MIB:.0f}",
        ]
        for row in frame.itertuples()
    ]  # fmt: skip
    return markdown(head, rows)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Time and peak memory against each size, on logarithmic axes with fitted slopes."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn as sns
    from matplotlib import pyplot as plt

    blue, orange, *_ = sns.color_palette("colorblind")
    names = list(frame["varied"].unique())
    seconds_per_pass = frame["seconds"].sum() / frame["token_passes"].sum()
    with sns.axes_style("whitegrid"):
        fig, axes = plt.subplots(
            2, len(names), figsize=(2.7 * len(names), 5.6), sharey="row", sharex="col",
            squeeze=False, layout="constrained",
        )  # fmt: skip
    for column, name in enumerate(names):
        part = frame[frame["varied"] == name].assign(
            passed=lambda one: one["token_passes"] * seconds_per_pass,
            resident=lambda one: one["peak"] / MIB,
            all_kept=lambda one: one["cached"] / MIB,
        )
        time_axis, memory_axis = axes[:, column]
        fitted = slope(part["value"], part["seconds"])
        sns.lineplot(
            part, x="value", y="seconds", ax=time_axis, color=blue, marker="o",
            label=f"measured, slope {fitted:.2f}",
        )  # fmt: skip
        counted = slope(part["value"], part["token_passes"])
        sns.lineplot(
            part, x="value", y="passed", ax=time_axis, color="black", linestyle=":",
            label=f"by token-passes, slope {counted:.2f}",
        )  # fmt: skip
        sns.lineplot(
            part, x="value", y="resident", ax=memory_axis, color=blue, marker="o",
            label="peak of the sweep",
        )  # fmt: skip
        sns.lineplot(
            part, x="value", y="all_kept", ax=memory_axis, color=orange, marker="s",
            linestyle="--", label="all activations kept",
        )  # fmt: skip
        memory_axis.axhline(part["budget"].max() / MIB, color="black", label="memory_budget")
        memory_axis.set(xlabel=UNITS[name], ylabel="memory, MiB")
        time_axis.set(ylabel="time, s")
        for axis in (time_axis, memory_axis):
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(part["value"], [str(value) for value in part["value"]], minor=False)
            axis.set_xticks([], minor=True)
        time_axis.legend(fontsize=8, loc="lower right", frameon=True)
        memory_axis.get_legend().remove()
    axes[1, 0].legend(fontsize=8, loc="best", frameon=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="very small sizes, as a trial")
    parser.add_argument("--budget", type=int, default=64, help="memory budget in MiB (default 64)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder for growth.png and results/growth.csv"
    )
    wanted = parser.parse_args(arguments)
    base = Point(budget=wanted.budget * MIB, threads=wanted.threads)
    if wanted.quick:
        base = replace(base, layers=2, branches=2, items=2, context=8, d_model=64)
    where, started = machine(), time.perf_counter()
    frame = results(QUICK if wanted.quick else VARIED, base)
    (wanted.out / "results").mkdir(parents=True, exist_ok=True)
    frame.to_csv(wanted.out / "results" / "growth.csv", index=False)
    draw(frame, wanted.out / "growth.png")
    print(f"{table(frame)}\n\n{where} The whole took {time.perf_counter() - started:.0f} s.")
    refuse_excess(frame)
    print("No point took more block passes than L(L+1)/2 a walk, or more memory than its budget.")


if __name__ == "__main__":
    main()

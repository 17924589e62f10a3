"""Make the tables and figures again: ``PYTHONPATH=. python analyses/organism/run.py``.

The models come with the package; how they were trained is told in ``docs/organisms.md``.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import layerwise as lw
from analyses.organism_training.seq2seq.evaluation import (
    answers_generated,
    read_organism,
    without_layer,
)
from analyses.organism_training.seq2seq.plan import N_ENCODER, N_LAYERS
from layerwise.ground.layer_names import layer_name
from layerwise.models.names.registry import ORGANISM_WEIGHTS
from layerwise.models.organisms import ORGANISM
from layerwise.models.organisms.tokenizer import toy_tokenizer
from layerwise.presentation.save import save_figure
from layerwise.presentation.style import FULL_WIDTH, look, new_figure, with_style
from layerwise.storage.file_list import NOT_KEPT_FILE
from layerwise.storage.provenance import listed_files
from layerwise.tasks import CAPABILITIES
from layerwise.tasks.suites.toy import toy_suites

HERE = Path(__file__).parent
NAMES = ("organism-decoder", "organism-decoder-1", "organism-decoder-2")
SEQ2SEQ_NAMES = ("organism-seq2seq", "organism-seq2seq-1", "organism-seq2seq-2")
N_ITEMS = 200
PROTOCOLS = ("continuation", "generate")
# What is kept of the profile; one row per item takes more room than a study should.
KEPT = (
    "run.json", "estimates.parquet", "left_out.parquet", "figures/role_map_skip_layer.png",
    "figures/method_agreement.png", "figures/removal_orders.png",
)  # fmt: skip
# What is kept of the profiles whose claims are compared with what was planted.
CLAIMED = ("claims.json", "estimates.parquet")
EFFECTS = ["capability", "protocol", "layer", "n_items", "acc_intact", "acc", "share_lost"]


def main() -> None:
    """Skip and read each layer of each organism, profile one, and draw how they were trained."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    skips, lenses = [], []
    for name in NAMES:
        model = lw.load_model(name)
        lens = lw.logit_lens(model, "all", "continuation").lens
        on_top = (lens["rank"] == 0).groupby([lens["capability"], lens["layer"]]).mean()
        skips.append(skip_effects(name))
        lenses.append(on_top.rename("on_top").reset_index().assign(model=name))
    _write(pd.concat(skips), results / "skips.csv")
    _write(pd.concat(lenses), results / "lens.csv")
    _write(pd.concat(map(skip_effects, SEQ2SEQ_NAMES)), results / "seq2seq_ablation.csv")
    _write(pd.concat(map(seq2seq_skips, SEQ2SEQ_NAMES)), results / "seq2seq_skips.csv")
    save_figure(training_figure(), results / "figures", "training")
    profile_organism(NAMES[0], results / "profile")
    for name in (NAMES[0], SEQ2SEQ_NAMES[0]):
        save_claims(name, results / "claimed" / name)


def profile_organism(name: str, folder: Path) -> None:
    """Everything that a profile can do, of one organism; its tables by item are not kept."""
    with TemporaryDirectory() as made:
        profile = lw.profile(lw.load_model(name), also="all", limit=100, out=made)
        for finding in profile.report.findings:
            print(f"- {finding.full}")
        for file in KEPT:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            copy(Path(made) / file, folder / file)
        left_out = sorted(set(listed_files(folder) or {}) - set(KEPT))
        (folder / NOT_KEPT_FILE).write_text("\n".join(left_out) + "\n")


def save_claims(name: str, folder: Path) -> None:
    """Claims of a short profile of an organism, and the tests of roles and orders behind them."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as made:
        lw.profile(lw.load_model(name), limit=40, out=made)
        for file in CLAIMED:
            copy(Path(made) / file, folder / file)


def _write(table: pd.DataFrame, path: Path) -> None:
    table.round(4).to_csv(path, index=False, lineterminator="\n")


def skip_effects(name: str) -> pd.DataFrame:
    """Cost of skipping each layer, in both protocols."""
    effects = lw.ablate(lw.load_model(name), "all", PROTOCOLS).effects()
    return effects[[*EFFECTS, "p_holm", "significant"]].assign(model=name)


def seq2seq_skips(name: str) -> pd.DataFrame:
    """Accuracy of an encoder-decoder when each layer passes on what it is given.

    By plain ``generate`` of Hugging Face, one layer after the other; layer -1: none is left out.
    """
    model, tokenizer = read_organism(ORGANISM_WEIGHTS / name), toy_tokenizer(ORGANISM, first=None)
    tasks = [make(n_items=N_ITEMS) for _, _, make in toy_suites(ORGANISM)]
    rows = []
    for layer in range(-1, N_LAYERS):
        address = "none" if layer < 0 else layer_name(layer, N_ENCODER)
        with without_layer(model, layer) if layer >= 0 else nullcontext():
            for task in tasks:
                right = answers_generated(model, tokenizer, task)
                rows.append((name, layer, address, task.capability, len(right), np.mean(right)))
    return pd.DataFrame(rows, columns=["model", "layer", "address", "capability", "n_items", "acc"])


@with_style
def training_figure() -> Figure:
    """Share of right predictions while each organism was trained, a panel per seed."""
    figure = new_figure(FULL_WIDTH, 3.8)
    panels = figure.subplots(2, len(NAMES), sharex=True, sharey=True)
    for axes, name in zip(panels.flat, (*NAMES, *SEQ2SEQ_NAMES), strict=True):
        curve = pd.read_csv(ORGANISM_WEIGHTS / name / "curve.csv")
        for index, capability in enumerate(CAPABILITIES):
            line = curve[(curve["capability"] == capability) & (curve["stage"] == "answer")]
            seen = look(index)
            axes.plot(
                line["step"], 100 * line["right"], color=seen.color, ls=seen.linestyle, lw=1.1,
                label=capability,
            )  # fmt: skip
        axes.set_title(name)
        axes.set_ylim(0, 102)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("right predictions (%)")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    main()

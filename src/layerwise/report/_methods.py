"""The words for a methods section and what to cite, filled in from a run."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from layerwise.analyses.ablation.tables.saved_effects import HEADS, SETS, ablations
from layerwise.analyses.registry import ANALYSES
from layerwise.presentation.wording import (
    in_order,
    intervention_phrase,
    join_words,
    protocol_words,
)
from layerwise.storage.provenance import Facts
from layerwise.storage.run_tables import RunTables

_BIBTEX = """@software{{layerwise,
  title = {{layerwise: which layers of a language model retrieve, know and reason}},
  author = {{{{The layerwise authors}}}},
  version = {{{version}}},
  year = {{{year}}},{url}
}}

@article{{song2025demystifying,
  title = {{Demystifying the Roles of {{LLM}} Layers in Retrieval, Knowledge, and Reasoning}},
  author = {{Song, Xinyuan and others}},
  journal = {{arXiv preprint arXiv:2510.02091}},
  year = {{2025}},
  url = {{https://arxiv.org/abs/2510.02091}},
}}
"""


def methods(run: RunTables) -> str:
    """Sentences for a methods section."""
    return (
        " ".join(
            [
                *_model_sentences(run.facts),
                *_intervention_sentences(run),
                *_statistics_sentences(run),
            ]
        )
        + "\n"
    )


def _model_sentences(facts: Facts) -> Iterator[str]:
    model, versions = facts.model, facts.versions
    stored = next(filter(None, (model.quantization, model.gguf)), "")
    weights = f", from files with weights quantized as {stored}" if stored else ""
    merged = f", with adapter {model.adapter}" if model.adapter else ""
    yield (
        f"We measured {model.name} ({model.n_layers} layers, computed in {model.dtype}{weights}"
        f"{merged}; SHA-256 of the weights in memory {model.hash[:12]}) with layerwise "
        f"{facts.layerwise} (torch {versions.get('torch', 'unknown')})."
    )
    tasks = ", ".join(f"{task.name} (n = {task.n_items})" for task in facts.tasks)
    ways = join_words(f"{protocol_words(one)} ({one})" for one in facts.protocols)
    if tasks:
        yield f"Tasks were {tasks}. To be scored, the model {ways}."


def _intervention_sentences(run: RunTables) -> Iterator[str]:
    """Sentences on what was done to the model, or read of it, as far as the run has its tables."""
    for kind, site in ablations(run):
        yield (
            f"Every item was asked again by "
            f"{intervention_phrase(kind, site, 'each layer')}, one at a time."
        )
    for kind, site in ablations(run, HEADS):
        yield (
            f"Every item was asked again by "
            f"{intervention_phrase(kind, site, 'each head')}, one at a time."
        )
    for kind, site in ablations(run, SETS):
        yield f"Every item was asked again by {intervention_phrase(kind, site, 'sets of layers')}."
    lens = run.table("lens")
    if lens is not None:
        kinds = join_words(f"{one} lens" for one in in_order(lens["lens"], ("logit", "tuned")))
        yield (
            f"The residual stream after each layer was read as if it were the last ({kinds}; "
            "nostalgebraist 2020)."
        )
    patching = run.table("patching_summary")
    if patching is not None:
        sites = join_words(in_order(patching["site"], ()))
        ways = {"denoising": "from the clean into the corrupted run",
                "noising": "from the corrupted into the clean run"}  # fmt: skip
        named = in_order(patching["direction"], tuple(ways))
        how = join_words(str(ways.get(one, one)) for one in named)
        yield (
            f"Activations ({sites}) were patched {how}, one layer and position at a time, between "
            "prompts that differ in a few words."
        )
    for analysis in ANALYSES:
        yield from (text for name, text in analysis.done.items() if run.table(name) is not None)


def _statistics_sentences(run: RunTables) -> Iterator[str]:
    yield "Effects are paired by item; intervals are over items, from the bootstrap or exact."
    yield (
        "Each claim's test and the family that its p-value is corrected over are in tests.csv; "
        "corrections are Holm's, and Benjamini and Hochberg's for heads, patches and pairs of "
        "layers."
    )
    if run.table("signal") is not None:
        yield "Nothing is claimed where the model is not above chance and its controls."
    yield f"The seed was {run.facts.seed}."


def references(facts: Facts) -> str:
    """Works to cite, as BibTeX."""
    # As the installed package names them; none is made up, and a paper's is not the software's.
    named = metadata.metadata("layerwise").get_all("Project-URL") or []
    addresses = dict(one.split(", ", 1) for one in named)
    address = addresses.get("Homepage", addresses.get("Repository", ""))
    url = f"\n  url = {{{address}}}," if address else ""
    return _BIBTEX.format(version=facts.layerwise, year=str(facts.created)[:4], url=url)

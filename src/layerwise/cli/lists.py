"""Commands that list what there is to be named: models and tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from layerwise.errors import UserError

from .printing import say


def models(
    name: Annotated[str | None, typer.Argument(help="Model to load and describe.")] = None,
    offload: Annotated[
        str | None, typer.Option(help="disk: only the layer that runs has its weights in memory.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="What runs a decoder: auto, transformer-lens or hugging-face.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
) -> None:
    """List the bundled models, or describe one model."""
    from layerwise.models import known_models

    if name is None:
        if offload is not None:
            raise UserError(
                f"--offload {offload} says how a model is loaded, but no model was named; name "
                "one, or leave it out."
            )
        for known in known_models():
            state = "available" if known.available else f"not here; {known.install}"
            say(f"{known.name}: {known.summary} ({state})")
        say("or: a .gguf file, a folder of a model or an adapter, a hub id such as owner/name")
        return
    from layerwise.models import load_model, model_facts
    from layerwise.sweep.packed.blocks import attention_in_use

    model = load_model(name, dtype=dtype, device=device, offload=offload, backend=backend)
    facts = model_facts(model)
    for field in facts.__dataclass_fields__:
        say(f"{field}: {getattr(facts, field)}")
    say(f"attention: {attention_in_use(model)}")


def tasks() -> None:
    """List the built-in tasks, and what other tasks there are by source."""
    from importlib.util import find_spec

    from layerwise.tasks import languages, load_task, task_names
    from layerwise.tasks.benchmarks import BENCHMARKS
    from layerwise.tasks.registry import arguments_in_words

    for language in languages():
        for name in task_names(language):
            arguments = arguments_in_words(name)
            say(load_task(name).describe() + (f" [{arguments}]" if arguments else ""))
    say("all, a capability, or matched: several of them, in the language of the model")
    say("with arguments: NAME:argument=value:..., such as kv-words:n_pairs=8")
    say("")
    say("benchmarks in their authors' own files:")
    for name, benchmark in BENCHMARKS.items():
        part = f"[{benchmark.part}=...:]" if benchmark.part else ""
        say(f"benchmark:{name}:{part}data=FOLDER ({benchmark.capability}): {benchmark.description}")
    say("")
    missing = "" if find_spec("lm_eval") else " (not here; pip install 'layerwise[lm-eval]')"
    say(f"lm-eval:NAME or lm-eval:FILE.yaml: a task or group of lm-evaluation-harness{missing}")
    say("hf:OWNER/NAME:SPLIT:question=COLUMN:answer=COLUMN: a data set of the Hugging Face hub")
    say("hf:NAME:question=COLUMN:answer=COLUMN:data=FOLDER: the same in a folder, without network")
    say("a .toml file: other words, examples or extractor for the items of any of these")
    say("or: a .jsonl, .csv or .parquet file with question, answer, optionally choices, context")

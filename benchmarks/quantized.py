"""A model whose 4-bit weights stay quantized, and the same with the numbers they stand for.

SmolLM2, or another model without quantized weights, is quantized to NF4 by bitsandbytes. The engine
does the works of ``backends.py`` with both, by turns, over the model's own modules. No ratio is
printed unless outcomes agree.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from backends import measure_models, works
from machine import machine
from measuring import markdown
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from layerwise.models import DEFAULT_MODEL, load_model, original_tokenizer
from layerwise.models.decoder.load import hooked_decoder
from layerwise.models.decoder.packed import weight_bytes
from layerwise.models.huggingface.folder import read_config
from layerwise.models.huggingface.originals import load_original
from layerwise.models.names.sources import find_source
from layerwise.models.weights.devices import parse_dtype

KINDS = ("kept", "numbers")


def write_nf4(folder: Path, out: Path) -> Path:
    """A folder in NF4, with what stands beside the weights."""
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    )
    model.save_pretrained(out)
    for path in folder.glob("token*"):
        shutil.copyfile(path, out / path.name)
    return out


def load_both(folder: Path, dtype: str) -> list[Any]:
    """The model of a quantized folder, kept and as numbers, over its own modules."""
    kept: Any = load_model(folder, dtype=dtype)
    original = load_original(folder, read_config(folder), parse_dtype(dtype))
    return [kept, hooked_decoder(original, kept.tokenizer, "numbers")]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--options", type=int, default=4)
    parser.add_argument("--context", type=int, default=96)
    parser.add_argument("--continuation", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3, help="an odd number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a tiny size, to try it")
    args = parser.parse_args(argv)
    if args.quick:
        args.items, args.options, args.context, args.tokens, args.runs = 2, 2, 12, 3, 1
    torch.set_num_threads(args.threads)
    print(machine("transformers", "bitsandbytes"))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        models = load_both(write_nf4(find_source(args.model).folder, Path(place)), args.dtype)
        for work in works(original_tokenizer(models[0]), models[0].cfg.n_layers, args):
            (kept, numbers), agreement = measure_models(models, work, args.runs, KINDS)
            rows.append([
                work[0], f"{agreement.largest:.0e}", f"{kept.cpu_seconds:.1f}",
                f"{numbers.cpu_seconds:.1f}", f"{kept.cpu_seconds / numbers.cpu_seconds:.2f}",
            ])  # fmt: skip
    sizes = (f"{weight_bytes(model) / 2**20:.0f} MiB {kind}" for kind, model in zip(
        KINDS, models, strict=True))  # fmt: skip
    print(f"\nWeights without scales: {', '.join(sizes)}.")
    print(f"Processor time, {args.dtype}, the median of {args.runs} runs by turns.\n")
    print(markdown("work|apart, nats|kept, s|numbers, s|ratio", rows))


if __name__ == "__main__":
    main()

"""The study of Song et al. 2025 (arXiv:2510.02091) counted beforehand, for two models of 8B.

Every layer skipped, under three protocols, on the benchmarks of ``BENCHMARKS``: token-passes,
operations and bytes by the plan, against one pruned checkpoint for each layer, and hours on named
GPUs. Nothing is run: a model is its published configuration, and what texts cost is counted on a
sample of real items in a folder that is named after the command. What is assumed is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from measuring import markdown
from transformers import AutoTokenizer, LlamaConfig, Qwen3Config

from layerwise.models.meta_model import load_meta_model
from layerwise.models.names.sources import find_source
from layerwise.planning import plan_run
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import GenerateSpec, Item, Task, Template

MODELS: dict[str, Any] = {
    "Llama-3.1-8B": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072,
        rms_norm_eps=1e-5, tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    ),
    "Qwen3-8B": Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
        rms_norm_eps=1e-6, tie_word_embeddings=False, architectures=["Qwen3ForCausalLM"],
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
}  # fmt: skip
"""As published in their config.json."""
# Dense bfloat16 products, in operations a second, and what of that whole runs are taken to reach.
GPUS = {"A100 SXM 80 GB": 312e12, "H100 SXM 80 GB": 989e12}
REACHED = 0.4
BUDGET, ITEMS = 2**35, 32
BYTES = 2  # of a parameter
ALL = ("letter", "continuation", "generate")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it is counted.

    Attributes:
        items: how many its usual split has.
        fewshot: worked examples before each.
        most: tokens of a text at most.
        protocols: how it is asked.
        read: its items in a folder of data; the first are examples.
    """

    items: int
    fewshot: int
    most: int
    protocols: tuple[str, ...]
    read: Callable[[Path], Iterator[Item]]


def mmlu(data: Path) -> Iterator[Item]:
    for path in sorted((data / "mmlu" / "test").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in islice(csv.DictReader(file), 5):
                choices = tuple(row[f"choice{k}"] for k in range(4))
                if len(set(choices)) == 4:
                    yield Item("", row["question"], choices[int(row["answer"])], choices)


def hellaswag(data: Path) -> Iterator[Item]:
    for row in lines(data / "hellaswag" / "validation_2000.jsonl"):
        yield Item("", row["ctx"], row["endings"][row["label"]], tuple(row["endings"]))


def openbookqa(data: Path) -> Iterator[Item]:
    for row in json.loads((data / "openbookqa" / "test.json").read_text("utf-8")):
        asked, _, options = row["instruction"].partition("\n\nAnswer1: ")
        choices = re.split(r" Answer\d: ", options.partition("\n\n")[0])
        question = asked.partition(": ")[2]
        yield Item("", question, choices[int(row["answer"][-1]) - 1], tuple(choices))


def mathqa(data: Path) -> Iterator[Item]:
    for row in json.loads((data / "mathqa" / "test.json").read_text("utf-8")):
        question, _, options = row["instruction"].partition(" The options: A ) ")
        choices = re.split(r" , [B-E] \) ", options)
        if len(set(choices)) == 5:
            yield Item("", question, choices["ABCDE".index(row["answer"])], tuple(choices))


def gsm8k(data: Path) -> Iterator[Item]:
    for row in lines(data / "gsm8k" / "test.jsonl"):
        worked, _, answer = row["answer"].partition("\n#### ")
        yield Item("", row["question"], answer, worked=f"{worked} The answer is {answer}")


def key_values(data: Path) -> Iterator[Item]:
    for row in lines(data / "kv_retrieval" / "kv-retrieval-75_keys_100.jsonl"):
        pairs = json.dumps(dict(row["ordered_kv_records"]))
        yield Item("", f'Key: "{row["key"]}"', row["value"], context=pairs)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


BENCHMARKS = {
    "MMLU": Benchmark(14042, 5, 16, ALL, mmlu),
    "HellaSwag": Benchmark(10042, 0, 32, ALL, hellaswag),
    "MathQA": Benchmark(2985, 0, 16, ALL, mathqa),
    "OpenBookQA": Benchmark(500, 0, 16, ALL, openbookqa),
    "GSM8K": Benchmark(1319, 5, 256, ("generate",), gsm8k),
    "key-value retrieval": Benchmark(500, 0, 64, ("generate",), key_values),
}
ASSUMED = (
    "Assumed, where the paper does not say: each benchmark's whole usual split; its examples; the "
    "longest texts; texts half as long as they may be; tokens as SmolLM2's tokenizer cuts them, "
    "whose vocabulary is smaller, so that real ones are fewer; a memory budget of 32 GiB; "
    f"{REACHED:.0%} of a GPU's rate by its data sheet, for both ways; operations of checkpoints in "
    "proportion to token-passes."
)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the benchmarks' files")
    parser.add_argument("--items", type=int, default=ITEMS, help="of each, on which is counted")
    parser.add_argument("--model", action="append", choices=tuple(MODELS), help="both if left out")
    asked = parser.parse_args(arguments)
    print(ASSUMED)
    for name in asked.model or MODELS:
        config = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(find_source("smollm2-135m").folder)
            tokenizer.save_pretrained(folder)
            costs = {
                which: benchmark_cost(folder, which, asked.data, asked.items)
                for which in BENCHMARKS
            }
            sizes = parameters(folder)
        print("\n".join(["", f"### {name}", "", *table_lines(costs, *sizes)]))


def benchmark_cost(folder: str, which: str, data: Path, n: int) -> tuple[Cost, float]:
    """Cost of some items of a benchmark, and how many times as many it has."""
    benchmark = BENCHMARKS[which]
    task = first_items(which, data, n)
    plan = plan_run(
        folder, [task], benchmark.protocols, dtype="bfloat16", memory_budget=BUDGET, untimed=True
    )
    print(f"counted: {which}", file=sys.stderr, flush=True)
    return plan.total, benchmark.items / len(task.items)


def first_items(which: str, data: Path, n: int) -> Task:
    """The first items of a benchmark after its examples."""
    benchmark = BENCHMARKS[which]
    found = list(islice(benchmark.read(data), n + benchmark.fewshot))
    named = [
        Item(f"{which}/{i:04d}", one.question, one.answer, one.choices, one.context, one.worked)
        for i, one in enumerate(found)
    ]
    return Task(
        name=which, capability="knowledge", description=which,
        items=tuple(named[benchmark.fewshot :]), fewshot=tuple(named[: benchmark.fewshot]),
        generate=GenerateSpec(("\n\n",), benchmark.most, "first_line"),
        chance=dict.fromkeys(benchmark.protocols, 0.25),
        template=Template(question_prefix="Question: ", answer_cue="\nAnswer:"),
    )  # fmt: skip


def parameters(folder: str) -> tuple[int, int, int]:
    """Parameters of the model and of one layer, and the number of layers."""
    model: Any = load_meta_model(folder, dtype="bfloat16")
    whole = sum(one.numel() for one in model.parameters())
    layer = sum(one.numel() for one in model.blocks[0].parameters())
    return whole, layer, model.cfg.n_layers


def table_lines(
    costs: dict[str, tuple[Cost, float]], whole: int, layer: int, n_layers: int
) -> Iterator[str]:
    """The table of one model: each benchmark, and all of them."""
    rows, sums = [], [0.0, 0.0, 0.0, 0.0]
    for which, (cost, times) in costs.items():
        fewer = cost.brute_force_token_passes / cost.token_passes
        mine = [cost.token_passes, cost.brute_force_token_passes, cost.flop, cost.flop * fewer]
        scaled = [value * times for value in mine]
        sums = [a + b for a, b in zip(sums, scaled, strict=True)]
        rows.append([which, f"{BENCHMARKS[which].items:,}", *row(scaled)])
    every = sum(one.items for one in BENCHMARKS.values())
    rows.append(["all", f"{every:,}", *row(sums)])
    hours = "".join(f"|{gpu}, h|checkpoints, h" for gpu in GPUS)
    yield markdown(
        f"benchmark|items|token-passes, 1e9|checkpoints, 1e9|times fewer|PFLOP{hours}", rows
    )
    peak = max(cost.peak_bytes for cost, _ in costs.values())
    written = n_layers * (whole - layer) * BYTES
    yield ""
    yield (
        f"Weights: {whole * BYTES / 1e9:.1f} GB, read once by each worker; {n_layers} pruned "
        f"checkpoints: {written / 1e9:,.0f} GB to write, and to read again. Activations, keys and "
        f"values of a worker: at most {peak / 2**30:.1f} GiB."
    )


def row(values: Sequence[float]) -> list[str]:
    """Token-passes of the engine and of checkpoints, and hours of both on each GPU."""
    passes, brute, flop, brute_flop = values
    both = [(rate, x) for rate in GPUS.values() for x in (flop, brute_flop)]
    hours = [f"{x / (rate * REACHED) / 3600:.1f}" for rate, x in both]
    return [
        f"{passes / 1e9:.2f}", f"{brute / 1e9:.2f}", f"{brute / passes:.1f}",
        f"{flop / 1e15:,.0f}", *hours,
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])

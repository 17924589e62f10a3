"""A sweep with the weights on disk against the same with the weights in memory: memory and time.

Each side is a process of its own that says how much memory it took above what imports take; the
outcomes must be the same. One more process per side runs under a limit that is smaller than the
weights. Linux only: memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine
from measuring import markdown

MIB = 2**20
SUITE = "facts"
NATS = 1e-4  # Both sides are the engine at one size, so that no processor rounds them differently.
WORKS = {"log-likelihoods": "letter", "greedy texts": "generate"}


def status(field: str) -> int:
    """A field of this process's status, in bytes, such as ``VmHWM``, its peak resident size."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def reset_peak() -> None:
    """Let the peak resident size begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def run_side(wanted: argparse.Namespace) -> None:
    """Load, sweep, and print what it took as one line of JSON."""
    from layerwise.models import load_model, original_tokenizer
    from layerwise.models.instance.facts import model_origin
    from layerwise.sweep import intact, skip, sweep
    from layerwise.tasks import build_requests, load_task

    torch.set_num_threads(wanted.threads)
    imports = status("VmRSS")
    if wanted.limit:
        ceiling = status("VmData") + wanted.limit * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))
    reset_peak()
    place = "disk" if wanted.side == "disk" else None
    model = load_model(wanted.model, offload=place, backend=wanted.backend)
    said: dict[str, Any] = {"load": status("VmHWM") - imports}
    origin = model_origin(model)
    assert origin is not None
    said["weights"] = origin.facts.n_parameters * model.W_E.element_size()
    changes = [intact(), *map(skip, range(model.cfg.n_layers))]
    task, tokenizer = load_task(SUITE, limit=wanted.items), original_tokenizer(model)
    for work, protocol in WORKS.items():
        asked = [
            one.request
            for item in task.items
            for one in build_requests(task, item, protocol, tokenizer)
        ]
        sweep(model, changes[:1], asked[:1])  # what is set up at first use
        reset_peak()
        started = time.perf_counter()
        outcomes = sweep(model, changes, asked, memory_budget=wanted.budget * MIB).outcomes
        said[work] = {
            "seconds": time.perf_counter() - started,
            "peak": status("VmHWM") - imports,
            "outcomes": [plain(outcome) for row in outcomes for outcome in row],
        }
    print(json.dumps(said))


def plain(outcome: Any) -> list[float]:
    """Log-probabilities, or tokens."""
    return list(getattr(outcome, "token_logprobs", None) or outcome.tokens)


def start(side: str, arguments: list[str], limit: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, *arguments, "--side", side, "--limit", str(limit)]
    return subprocess.run(command, capture_output=True, text=True)


def measure_side(side: str, arguments: list[str], limit: int = 0) -> dict[str, Any]:
    """Measure a side in a process of its own.

    Raises:
        SystemExit: if it fails.
    """
    ended = start(side, arguments, limit)
    if ended.returncode:
        raise SystemExit(f"The side {side!r} failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def largest_gap(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a log-probability, in nats.

    Raises:
        SystemExit: if it is ``NATS`` or more, or a text differs.
    """
    if one["greedy texts"]["outcomes"] != other["greedy texts"]["outcomes"]:
        raise SystemExit("Texts differ.")
    ours, theirs = (side["log-likelihoods"]["outcomes"] for side in (one, other))
    rows = zip(ours, theirs, strict=True)
    gap = max(abs(a - b) for row in rows for a, b in zip(*row, strict=True))
    if gap >= NATS:
        raise SystemExit(f"Log-probabilities differ by {gap} nats.")
    return gap


def table(sides: dict[str, dict[str, Any]]) -> str:
    head = "work|" + "|".join(f"{side}, {what}" for what in ("MiB", "s") for side in sides)
    rows = [["loading", *(f"{side['load'] / MIB:.0f}" for side in sides.values()), "", "", ""]]
    for work in WORKS:
        peaks = [f"{side[work]['peak'] / MIB:.0f}" for side in sides.values()]
        memory, disk = (side[work]["seconds"] for side in sides.values())
        rows.append([work, *peaks, f"{memory:.1f}", f"{disk:.1f}", f"{disk / memory:.2f}"])
    return markdown(f"{head}|ratio", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--items", type=int, default=8, help="items of the suite (default 8)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--backend", default="auto", help="what runs the model (default auto)")
    parser.add_argument("--budget", type=int, default=64, help="memory budget, MiB (default 64)")
    parser.add_argument(
        "--limit", type=int, default=450,
        help="MiB above what imports take for the processes under a limit (default 450)",
    )  # fmt: skip
    parser.add_argument("--side", choices=("memory", "disk"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.side:
        run_side(wanted)
        return
    arguments = [
        f"--{name}={getattr(wanted, name)}"
        for name in ("model", "items", "threads", "budget", "backend")
    ]
    torch.set_num_threads(wanted.threads)
    where = machine()
    measure_side("disk", arguments)  # writes the files, if this is the first time
    sides = {side: measure_side(side, arguments) for side in ("memory", "disk")}
    print(
        f"{wanted.items} items of {SUITE}, float32, {sides['memory']['weights'] / MIB:.0f} MiB of "
        f"weights; peak resident MiB above what imports take, and seconds.\n\n{table(sides)}\n\n"
        f"{where}\nSame texts, log-probabilities at most {largest_gap(*sides.values()):.1e} nats "
        "apart."
    )
    peak = max(sides["disk"][work]["peak"] for work in WORKS)
    if peak >= sides["disk"]["weights"]:
        raise SystemExit(f"On disk, {peak / MIB:.0f} MiB were taken: more than the weights.")
    limited = measure_side("disk", arguments, wanted.limit)
    fails = start("memory", arguments, wanted.limit).returncode != 0
    print(
        f"Under a limit of {wanted.limit} MiB of data above what imports take: on disk the same "
        f"outcomes ({largest_gap(sides['memory'], limited):.1e} nats); in memory "
        f"{'the process fails' if fails else 'they come too, so set a lower limit'}."
    )


if __name__ == "__main__":
    main()

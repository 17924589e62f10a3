"""Memory and time of a load: the first, which converts and compares, and a later one.

Each load is a process of its own with a cache folder made for the occasion. Resident memory counts
pages of mapped files, which the system takes back when it needs them; anonymous memory does not.
Linux only: memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from machine import machine
from measuring import markdown
from offloaded import MIB, reset_peak, status

PAUSE = 0.005  # seconds between two looks at anonymous memory, which has no high-water mark


class Watch(threading.Thread):
    """Looks at this process's anonymous memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.stopped = 0, threading.Event()

    def run(self) -> None:
        """Look, until it is stopped."""
        while not self.stopped.wait(PAUSE):
            self.peak = max(self.peak, status("RssAnon"))


def run_load(wanted: argparse.Namespace) -> None:
    """Load, and print what it took as one line of JSON."""
    from layerwise.models import load_model, model_facts

    load_model("organism-decoder")  # what is imported at first use
    resident, anonymous = status("VmRSS"), status("RssAnon")
    reset_peak()
    watch = Watch()
    watch.start()
    started, worked = time.perf_counter(), time.process_time()
    model = load_model(wanted.model, dtype=wanted.dtype, backend=wanted.backend)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    watch.stopped.set()
    watch.join()
    said = {"resident": status("VmHWM") - resident, "anonymous": watch.peak - anonymous}
    facts = model_facts(model)
    weights = facts.n_parameters * model.W_E.element_size()
    known = {"hash": facts.hash, "parity": facts.parity, "weights": weights}
    print(json.dumps(said | known | {"seconds": seconds, "processor": worked}))


def measure_load(arguments: list[str], cache: str) -> dict[str, Any]:
    """Measure a load in a process of its own.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, __file__, *arguments, "--here"]
    variables = os.environ | {"LAYERWISE_CACHE": cache}
    ended = subprocess.run(command, capture_output=True, text=True, env=variables)
    if ended.returncode:
        raise SystemExit(f"The load failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def table(loads: dict[str, dict[str, Any]]) -> str:
    """A line for each load; memory in MiB and as a multiple of the weights."""
    rows = [
        [
            name,
            *(f"{said[kind] / MIB:.0f} ({said[kind] / said['weights']:.2f})" for kind in KINDS),
            f"{said['processor']:.1f}",
            f"{said['seconds']:.1f}",
        ]
        for name, said in loads.items()
    ]
    return markdown("load|resident|anonymous|processor (s)|wall (s)", rows)


KINDS = ("resident", "anonymous")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.here:
        run_load(wanted)
        return
    arguments = [f"--{name}={getattr(wanted, name)}" for name in ("model", "dtype", "backend")]
    with tempfile.TemporaryDirectory(prefix="loading-") as cache:
        loads = {name: measure_load(arguments, cache) for name in ("first", "later")}
    first, later = loads.values()
    if (first["hash"], first["parity"]) != (later["hash"], later["parity"]):
        raise SystemExit("The loads gave different models.")
    print(
        f"{wanted.model}, {first['weights'] / MIB:.0f} MiB of weights in {wanted.dtype}; peak MiB "
        f"above what imports take (and as a multiple of the weights).\n\n{table(loads)}\n\n"
        f"{machine()}"
    )


if __name__ == "__main__":
    main()

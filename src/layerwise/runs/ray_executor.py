"""Pieces of a run made on a Ray cluster, by workers that load the model by its name.

The process that plans the run keeps what they make exactly as if it had made it itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any

from annotated_types import Ge, Le

from layerwise.errors import UserError, count_noun, printable, short_repr
from layerwise.ground.arguments import Argument
from layerwise.models.instance.facts import loading_arguments, loading_arguments_with_hash
from layerwise.models.instance.kinds import Model
from layerwise.models.weights.devices import DEVICES

from .checkpoints import Machine
from .executors import Executor, Keep, Make, WorkUnit
from .progress import Meter
from .ray_pool import Needs, Worker, WorkerPool, refuse_silent, refuse_without_ray
from .travel import pack, table_from_bytes

_TEXT = {"cpus": "num_cpus", "gpus": "num_gpus", "actors": "actors", "device": "device"}
_MOST = 10_000
_CPUS = Argument("num_cpus", Annotated[float, Ge(1 / 64), Le(float(_MOST))], 1.0)
_GPUS = Argument("num_gpus", Annotated[float, Ge(0.0), Le(float(_MOST))], 1.0)
_ACTORS = Argument("actors", Annotated[int | None, Ge(1), Le(_MOST)], 8)
_LIKE = "local, auto or HOST:PORT, and after it what else is wanted: auto,actors=8,gpus=1,cpus=4"
# A piece that fails so often is given up; workers are lost through no fault of a piece, so that
# more of them are forgiven.
MOST_FAILURES, MOST_LOST = 3, 6
# A machine on which so many workers were lost before they had begun is left out.
LOST_AT_START = 5
# Seconds between looks at which machines there are, and until whoever waits for workers is told.
LOOK, PATIENCE = 5.0, 60.0
_LONGEST = 300  # characters of what a worker says of a failure


@dataclass(frozen=True)
class RayExecutor(Executor):
    """Run an analysis on a Ray cluster: one model per worker, loaded by name.

    Workers are kept from one analysis to the next, until ``close`` or the end of the process;
    ``docs/scale.md`` tells how a cluster is started, and what is the same with and without one.

    Attributes:
        address: of the cluster's head, such as ``10.0.0.1:6379``; ``auto`` for the cluster that
            this machine belongs to; None starts one on this machine.
        num_cpus: processors of a worker, and its threads.
        num_gpus: GPUs of a worker; a part of one where several share it.
        actors: workers on each machine; as many as fit if None.
        device: where workers have the model: ``cuda`` if they have a GPU and ``cpu`` if not, if
            None.

    Raises:
        UserError: if an option is none, or when it is used, if there is no such cluster.

    Example:
        >>> RayExecutor("10.0.0.1:6379", num_gpus=1, actors=8).device_of_workers
        'cuda'
    """

    address: str | None = None
    num_cpus: int | float = field(default=1, kw_only=True)
    num_gpus: int | float = field(default=0, kw_only=True)
    actors: int | None = field(default=None, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    _pools: list[WorkerPool] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        address = self.address
        host, _, port = str(address).rpartition(":")
        known = host and "/" not in host and port.isdecimal() and 0 < int(port[:6]) < 2**16
        if address is not None and (
            not isinstance(address, str) or not (known or address == "auto")
        ):
            raise UserError(
                f"The address of a Ray cluster is {short_repr(str(address))}; expected that of its "
                "head, such as 10.0.0.1:6379, or auto; leave it out for this machine alone."
            )
        _CPUS.read(self.num_cpus)
        _GPUS.read(self.num_gpus)
        _ACTORS.read(self.actors)
        if self.device is not None and str(self.device).partition(":")[0] not in DEVICES:
            raise UserError(
                f"The device of Ray's workers is {short_repr(str(self.device))}; expected one of "
                f"{', '.join(DEVICES)}."
            )
        if self.num_gpus and self.device is not None and not self.device.startswith("cuda"):
            raise UserError(
                f"Ray's workers are to have {self.num_gpus:g} GPU(s) each and the model on "
                f"{self.device}: expected one or the other; leave num_gpus or the device out."
            )

    @classmethod
    def from_text(cls, text: str) -> RayExecutor:
        """The executor that a text stands for, as it is written on the command line.

        Args:
            text: ``local``, ``auto`` or an address, and options after it.

        Raises:
            UserError: if it cannot be read.

        Example:
            >>> RayExecutor.from_text("auto,actors=2,cpus=4")
            RayExecutor(address='auto', num_cpus=4, num_gpus=0, actors=2, device=None)
        """
        address, *options = (piece.strip() for piece in text.split(","))
        given: dict[str, Any] = {}
        for option in options:
            name, _, value = option.partition("=")
            if name not in _TEXT or not value:
                raise UserError(
                    f"Cannot read {short_repr(text)} as a Ray cluster: expected {_LIKE}."
                )
            if _TEXT[name] in given:
                raise UserError(
                    f"Cannot read {short_repr(text)} as a Ray cluster: {name} is given "
                    f"twice; expected "
                    "each option once."
                )
            given[_TEXT[name]] = value if name == "device" else _number(text, value)
        return cls(None if address == "local" else address, **given)

    @property
    def device_of_workers(self) -> str:
        """Device on which workers have the model."""
        return self.device or ("cuda" if self.num_gpus else "cpu")

    @property
    def beside(self) -> int:
        """See ``Executor``; machines are taken to be like this one."""
        fit = (os.cpu_count() or 1) / self.num_cpus
        return self.actors or (1 if self.num_gpus else max(1, int(fit)))

    def refuse_unreachable(self) -> None:
        """Refuse at once where Ray is missing or nobody answers at the address.

        Raises:
            UserError: if so.
        """
        refuse_without_ray()
        if not self._pools and self.address not in (None, "auto"):
            refuse_silent(str(self.address))

    def admit(self, model: Model) -> None:
        """See ``Executor``: the model must have been loaded by a name."""
        loading_arguments(model)

    def make(self, works: Sequence[WorkUnit], make: Make, keep: Keep, progress: Meter) -> None:
        """See ``Executor``; largest pieces first, each given up when it has failed three times."""
        job, models = pack((make, [work.arguments for work in works]))
        if not self._pools:
            progress.set_activity("waiting for Ray's workers")
            needs = Needs(self.num_cpus, self.num_gpus, self.actors, self.device_of_workers)
            self._pools.append(WorkerPool(self.address, needs))
        (pool,) = self._pools
        Round(
            pool,
            job,
            [loading_arguments_with_hash(model) for model in models],
            works,
            keep,
            progress,
        ).run()

    def close(self) -> None:
        """End the workers, and the cluster if it was started for them."""
        while self._pools:
            self._pools.pop().close()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _number(text: str, value: str) -> int | float:
    for read in (int, float):
        with contextlib.suppress(ValueError):
            return read(value)
    raise UserError(f"Cannot read {short_repr(text)} as a Ray cluster: expected {_LIKE}.")


class Round:
    """Pieces of one job that workers make, until each is kept or given up."""

    def __init__(
        self,
        pool: WorkerPool,
        job: bytes,
        models: list[dict[str, Any]],
        works: Sequence[WorkUnit],
        keep: Keep,
        progress: Meter,
    ) -> None:
        self._pool, self._works, self._keep, self._progress = pool, works, keep, progress
        self._job, self._models = pool.put(job), models
        self._left = sorted(range(len(works)), key=lambda number: -works[number].amount)
        self._idle: list[Worker] = []
        # Answers that are waited for: a worker's piece by its number, or that it begins (None).
        self._asked: dict[Any, tuple[Worker, int | None]] = {}
        self._failures: Counter[tuple[str, int]] = Counter()
        self._lost_at_start: Counter[str] = Counter()
        self._given_up: dict[int, str] = {}
        self._left_out: dict[str, str] = {}  # machines, and why
        self._told: set[str] = set()
        self._last, self._looked = time.monotonic(), 0.0

    def run(self) -> None:
        """Have all pieces made."""
        for worker in self._pool.workers:
            self._begin(worker)
        while self._left or self._is_making:
            if self._left:
                self._start_workers()
            self._assign_pieces()
            for reference, answer in self._pool.wait(list(self._asked)):
                self._last = time.monotonic()
                worker, number = self._asked.pop(reference)
                if number is None:
                    self._note_started(worker, answer)
                else:
                    self._take(worker, number, answer)
            self._tell()
        if self._given_up:
            works, given_up = self._works, sorted(self._given_up.items())
            whys = [f"{works[number].names[-1]!r} {why}" for number, why in given_up]
            more = f", and {count_noun(len(whys) - 3, 'other')}" if len(whys) > 3 else ""
            n_pieces, reasons = count_noun(len(whys), "piece"), "; ".join(whys[:3])
            raise UserError(
                f"{n_pieces} of the run could not be made: {reasons}{more}. All other pieces are "
                "kept: expected each to be made; give the same command again to try what is "
                "missing, without Ray to see all of an error."
            )

    @property
    def _is_making(self) -> bool:
        """True if any piece is being made."""
        return any(number is not None for _, number in self._asked.values())

    @property
    def _n_workers(self) -> int:
        """Number of workers, those that only begin among them."""
        return sum(not worker.refused for worker in self._pool.workers)

    def _rooms(self) -> dict[str, int]:
        """Number of workers that each machine is to have, but for those that are left out."""
        rooms = self._pool.rooms()
        return {node: room for node, room in rooms.items() if node not in self._left_out}

    def _start_workers(self) -> None:
        """Start workers where there is room for more, once in a while."""
        if time.monotonic() - self._looked < LOOK and self._n_workers:
            return
        self._looked = time.monotonic()
        for node, room in self._rooms().items():
            for _ in range(room - sum(worker.node == node for worker in self._pool.workers)):
                self._begin(self._pool.start(node))

    def _begin(self, worker: Worker) -> None:
        worker.machine, worker.refused = None, False
        version = metadata.version("layerwise")
        begun = worker.actor.begin.remote(self._job, self._models, version)
        self._asked[begun] = worker, None

    def _note_started(self, worker: Worker, answer: dict[str, Any] | None) -> None:
        node = worker.node
        if answer is None:
            self._lost_at_start[node] += 1
            if self._lost_at_start[node] >= LOST_AT_START:
                self._left_out[node] = (
                    f"workers on {self._pool.machine_name(node)} end as they begin"
                )
            self._drop(worker)
        elif "refused" in answer:  # it may be of use for the next job
            self._left_out[node], worker.refused = answer["refused"], True
        else:
            worker.machine = Machine(answer["machine"], answer["device"], answer["environment"])
            self._lost_at_start[node] = 0
            self._idle.append(worker)

    def _drop(self, worker: Worker) -> None:
        self._pool.drop(worker)
        self._looked = 0.0

    def _assign_pieces(self) -> None:
        while self._left and self._idle:
            worker = self._idle.pop(0)
            number = self._next(worker)
            self._left.remove(number)
            work = self._works[number]
            worker.last = work.doing
            self._progress.set_activity(f"{work.doing}, on {count_noun(self._n_workers, 'worker')}")
            self._asked[worker.actor.make.remote(number)] = worker, number

    def _next(self, worker: Worker) -> int:
        """The largest piece; or one like the worker's last, with which it shares examples."""
        largest = self._left[0]
        alike = (n for n in self._left if self._works[n].doing == worker.last)
        near = next(alike, largest)
        return near if 2 * self._works[near].amount >= self._works[largest].amount else largest

    def _take(self, worker: Worker, number: int, answer: dict[str, Any] | None) -> None:
        work, on = self._works[number], worker.machine.machine if worker.machine else "a machine"
        if answer is None:
            self._drop(worker)
            self._progress.note(f"a worker on {on} was lost; its piece is made again.")
            self._retry(number, "lost", MOST_LOST, "the worker was lost each time")
            return
        self._idle.append(worker)
        if "failed" in answer:
            reason = printable(str(answer["failed"]))[:_LONGEST]
            self._retry(number, "failed", MOST_FAILURES, f"last on {on}, {reason}")
            return
        tables = {name: table_from_bytes(table) for name, table in answer["tables"].items()}
        self._keep(work, tables, worker.machine)
        self._progress.add_work(work.amount)

    def _retry(self, number: int, how: str, most: int, why: str) -> None:
        self._failures[how, number] += 1
        if self._failures[how, number] >= most:
            self._given_up[number] = f"failed {most} times ({why})"
            self._progress.add_work(self._works[number].amount)
        else:
            self._left.insert(0, number)

    def _tell(self) -> None:
        """Report machines that are left out, and waiting for workers; end where none is left."""
        whys = dict.fromkeys(self._left_out.values())
        hopeless = whys and not self._is_making and not self._n_workers
        if hopeless and not any(self._rooms().values()):
            raise UserError(f"Ray has no worker left for this run: {'; '.join(whys)}")
        notes = [f"a machine is left out: {why}" for why in whys]
        waiting = not self._is_making and not self._idle
        if waiting and time.monotonic() > self._last + PATIENCE:
            notes.append(
                "no worker of Ray's is ready yet: machines load the model or have no room."
            )
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                self._progress.note(note)

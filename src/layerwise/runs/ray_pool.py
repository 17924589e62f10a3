"""The workers of a Ray cluster: where they run, which are ready, which are lost.

Ray is imported when a pool is opened.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from importlib import metadata, util
from threading import Thread
from typing import Any

from layerwise.errors import UserError, one_line, shown

from .checkpoints import Machine
from .ray_worker import RayWorker

# Seconds: to reach a head, between looks whether it is there and at which machines there are, and
# until one that waits for workers is told of it.
REACH, HEARD, LOOK, PATIENCE = 5.0, 1.0, 5.0, 60.0
# A machine on which so many workers were lost before they had begun is given up.
LOST_AT_START = 5
# A client of HTTP/2, which Ray's head speaks: its greeting, and a frame of no settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = 4
# Ray tells its makers of each run unless it is told not to; workers of a cluster that is started
# here would yield to everything else on the machine; and GPUs would be hidden anew from those
# that ask for none, with a warning.
_SETTINGS_OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def refuse_without_ray() -> None:
    """Refuse where Ray is not installed."""
    if util.find_spec("ray") is None:
        raise UserError(
            "Ray is not installed: expected it for runs on several machines; install it with "
            "pip install 'layerwise[ray]', on all of them."
        )


def refuse_silent(address: str) -> None:
    """Refuse the address of a head at which none answers: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH) as to:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            to.sendall(_GREETING)
            if to.recv(9)[3:4] == bytes([_SETTINGS]):
                return
    except OSError:
        pass
    raise UserError(
        f"No head of a Ray cluster answers at {shown(address)}: expected the address that "
        "'ray start --head' printed, such as 10.0.0.1:6379; start one there, or check the address."
    )


@dataclass
class Worker:
    """A worker and its state in the pool."""

    node: str  # id of the machine that it runs on
    actor: Any  # Ray's handle
    machine: Machine | None = None  # what it says of itself, once it has begun
    last: str = ""  # the group of the piece that it made last
    refused: bool = False  # whether it cannot make pieces of this job


@dataclass(frozen=True)
class Needs:
    """What a worker takes."""

    num_cpus: int | float  # processors
    num_gpus: int | float
    actors: int | None  # workers on each machine; as many as fit if None
    device: str  # where models go

    def fit(self, resources: dict[str, float]) -> int:
        """How many workers a machine has room for."""
        of = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        room = [int(resources.get(name, 0.0) / each + 1e-9) for name, each in of.items() if each]
        return min(room)

    def __str__(self) -> str:
        gpus = f" and {self.num_gpus:g} GPU(s)" if self.num_gpus else ""
        return f"{self.num_cpus:g} processor(s){gpus}"


class Pool:
    """Workers on all machines of a cluster, as they come and go."""

    def __init__(self, address: str | None, needs: Needs) -> None:
        self._needs = needs  # what each worker takes
        self._ray, self._mine = _connected(address, needs)
        # Where the cluster's head listens, and Ray on this machine.
        here = self._ray.get_runtime_context()
        (own,) = [node for node in self._ray.nodes() if node["NodeID"] == here.get_node_id()]
        beside = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
        self._heard, self._needed = 0.0, [here.gcs_address, beside]
        self.workers: list[Worker] = []
        self.pending: dict[Any, Worker] = {}
        self.refused: list[str] = []
        self._lost: Counter[str] = Counter()
        self._given_up: set[str] = set()
        self._job: Any = None
        self._models: list[dict[str, Any]] = []
        self._looked = 0.0
        self._refuse_too_small()

    def begin(self, job: bytes, models: Sequence[dict[str, Any]]) -> None:
        """Give a job to all workers, later ones included."""
        self._job, self._models = self._ray.put(job), list(models)
        self.pending.clear()
        self._given_up.clear()
        self._lost.clear()
        self.refused.clear()
        for worker in self.workers:
            self._begin(worker)
        self._looked = 0.0
        self.look()

    def look(self) -> None:
        """Start workers where there is room for more, once in a while."""
        if time.monotonic() - self._looked < LOOK and self.n_workers:
            return
        self._looked = time.monotonic()
        for node, room in self._rooms():
            for _ in range(room - sum(worker.node == node for worker in self.workers)):
                self._start(node)

    def ask(self, worker: Worker, number: int) -> Any:
        """Make a worker build a piece; returns the reference to wait for."""
        return worker.actor.make.remote(number)

    def wait(self, refs: Sequence[Any]) -> list[tuple[Any, Worker | None, dict[str, Any] | None]]:
        """Wait a second at most for answers, of beginnings as well."""
        if time.monotonic() - self._heard > HEARD:
            self._refuse_lost_head()
        waited = [*refs, *self.pending]
        if not waited:
            time.sleep(0.2)
            return []
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=1.0)
        return [
            (reference, self.pending.pop(reference, None), self._answer(reference))
            for reference in ready
        ]

    def begun(self, worker: Worker, answer: dict[str, Any] | None) -> bool:
        """Whether a worker is ready, by its answer; of one that is not its machine is told."""
        if answer is None:
            self._lost[worker.node] += 1
            if self._lost[worker.node] >= LOST_AT_START:
                name = self.name_of(worker.node)
                self._give_up(worker.node, f"workers on {name} end as they begin")
            self.drop(worker)
            return False
        if "refused" in answer:
            self._give_up(worker.node, answer["refused"])
            worker.refused = True  # it may be of use for the next job
            return False
        worker.machine = Machine(answer["machine"], answer["device"], answer["environment"])
        self._lost[worker.node] = 0
        return True

    def drop(self, worker: Worker) -> None:
        """Forget a worker, and end it if it is still there."""
        if worker in self.workers:
            self.workers.remove(worker)
        self._ray.kill(worker.actor)
        self._looked = 0.0

    def close(self) -> None:
        """End all workers, and the cluster if it was started here."""
        if self._ray.is_initialized():
            for worker in list(self.workers):
                self.drop(worker)
            if self._mine:
                self._ray.shutdown()

    def name_of(self, node: str) -> str:
        """A machine's name."""
        names = {one["NodeID"]: one["NodeManagerHostname"] for one in self._nodes()}
        return names.get(node, node[:8])

    @property
    def n_workers(self) -> int:
        """How many workers there are, those that only begin among them."""
        return sum(not worker.refused for worker in self.workers)

    def hopeless(self) -> bool:
        """Whether there is no worker, and none can be expected."""
        more = any(room for _, room in self._rooms())
        return not self.n_workers and not more and bool(self.refused)

    def _rooms(self) -> Iterator[tuple[str, int]]:
        """Machines and their numbers of workers."""
        for node in self._nodes():
            if node["Alive"] and node["NodeID"] not in self._given_up:
                fit, most = self._needs.fit(node["Resources"]), self._needs.actors
                yield node["NodeID"], fit if most is None else min(fit, most)

    def _nodes(self) -> list[dict[str, Any]]:
        """The cluster's machines."""
        return self._of_head(self._ray.nodes)

    def _of_head(self, ask: Callable[[], Any]) -> Any:
        """What the head answers, asked beside, so that one that is lost meanwhile is noticed."""
        answer: Future[Any] = Future()

        def asking() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        self._refuse_lost_head()
        Thread(target=asking, daemon=True).start()
        while not wait([answer], timeout=HEARD).done:
            self._refuse_lost_head()
        return answer.result()

    def _refuse_lost_head(self) -> None:
        """Refuse to go on without what this process needs: Ray would wait, and then end it."""
        for address in self._needed:
            if not (_listens(address) or _listens(address)):
                raise UserError(
                    f"Ray does not answer at {address} any more: expected the cluster's head, and "
                    "Ray on this machine, to run until the end. All pieces that were made are "
                    "kept; start Ray again and give the same command again, or go on without it."
                )
        self._heard = time.monotonic()

    def _refuse_too_small(self) -> None:
        fits = [self._needs.fit(node["Resources"]) for node in self._nodes() if node["Alive"]]
        wanted = self._needs.actors or 1
        if max(fits, default=0) < wanted:
            self.close()
            raise UserError(
                f"{wanted} worker(s) of {self._needs} each do not fit on any machine of the "
                f"cluster, which has {len(fits)}: expected what one of them has; ask for fewer "
                "actors, processors or GPUs."
            )

    def _start(self, node: str) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = self._needs
        made: Any = self._ray.remote(RayWorker).options(
            num_cpus=needs.num_cpus,
            num_gpus=needs.num_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        threads = max(1, int(needs.num_cpus))
        worker = Worker(node, self._of_head(lambda: made.remote(threads, needs.device)))
        self.workers.append(worker)
        self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        worker.machine, worker.refused = None, False
        version = metadata.version("layerwise")
        self.pending[worker.actor.begin.remote(self._job, self._models, version)] = worker

    def _give_up(self, node: str, why: str) -> None:
        self._given_up.add(node)
        if why not in self.refused:
            self.refused.append(why)

    def _answer(self, answer: Any) -> dict[str, Any] | None:
        from ray.exceptions import RayError

        try:
            return self._ray.get(answer)
        except RayError:
            return None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        return True
    return False


def _connected(address: str | None, needs: Needs) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether that was done here."""
    refuse_without_ray()
    for name, value in _SETTINGS_OF_RAY.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        # A cluster beside the one that this process is connected to is refused, as its port tells.
        connected = str(ray.get_runtime_context().gcs_address)
        port = None if address in (None, "auto") else str(address).rpartition(":")[2]
        if port is not None and port != connected.rpartition(":")[2]:
            raise UserError(
                f"This process is connected to another Ray cluster ({connected}) than "
                f"{shown(str(address))}: expected one at a time; close the other executor first."
            )
        return ray, False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    options: dict[str, Any] = {"address": address or "local", **quiet}
    if address is None:
        room = math.ceil(needs.num_cpus * (needs.actors or 1))
        # Tables and jobs are small.
        options |= {"num_cpus": max(os.cpu_count() or 1, room), "object_store_memory": 2**28}
        options["include_dashboard"] = False
    elif address != "auto":
        refuse_silent(address)
    try:
        ray.init(**options)
    except Exception as error:  # a plain one, where the machine is too busy
        raise UserError(
            f"Ray could not connect to {shown(address or 'local')} ({one_line(error)}): expected a "
            "cluster that this machine belongs to, with the same Ray and Python; start it with "
            "'ray start', or give its head's address."
        ) from error
    # Keep off the terminal what Ray prints of each lost worker, for which it has no option.
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private import worker

        if callable(worker.print_to_stdstream):
            worker.print_to_stdstream = lambda data, ignore_prefix: None
    return ray, True

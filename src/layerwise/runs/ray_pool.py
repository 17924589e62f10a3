"""A Ray cluster: how it is reached, where its workers run, and whether its head is lost.

Ray is imported when a pool is opened.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from importlib import util
from threading import Thread
from typing import Any

from layerwise.errors import UserError, one_line, short_repr

from .checkpoints import Machine
from .ray_worker import RayWorker

# Seconds: to reach a head, and between looks whether it is there.
REACH, HEARD = 5.0, 1.0
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
        f"No head of a Ray cluster answers at {short_repr(address)}: expected the address that "
        "'ray start --head' printed, such as 10.0.0.1:6379; start one there, or check the address."
    )


@dataclass
class Worker:
    """A worker and its state in the job that it was given last."""

    node: str  # id of the machine that it runs on
    actor: Any  # Ray's handle
    machine: Machine | None = None  # what it says of itself, once it has begun
    last: str = ""  # the group of the piece that it made last
    refused: bool = False  # whether it cannot make pieces of this job


@dataclass(frozen=True)
class Needs:
    """Resources that a worker takes."""

    num_cpus: int | float  # processors
    num_gpus: int | float
    actors: int | None  # workers on each machine; as many as fit if None
    device: str  # where models go

    def fit(self, resources: dict[str, float]) -> int:
        """Number of workers that a machine has room for."""
        of = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        room = [int(resources.get(name, 0.0) / each + 1e-9) for name, each in of.items() if each]
        return min(room)

    def __str__(self) -> str:
        gpus = f" and {self.num_gpus:g} GPU(s)" if self.num_gpus else ""
        return f"{self.num_cpus:g} processor(s){gpus}"


class WorkerPool:
    """Workers on all machines of a cluster, kept from one job to the next."""

    def __init__(self, address: str | None, needs: Needs) -> None:
        self._needs = needs  # what each worker takes
        self._ray, self._mine = _connect(address, needs)
        # Where the cluster's head listens, and Ray on this machine.
        here = self._ray.get_runtime_context()
        (own,) = [node for node in self._ray.nodes() if node["NodeID"] == here.get_node_id()]
        beside = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
        self._heard, self._needed = 0.0, [here.gcs_address, beside]
        self.workers: list[Worker] = []
        rooms, wanted = self.rooms(), needs.actors or 1
        if max(rooms.values(), default=0) < wanted:
            self.close()
            raise UserError(
                f"{wanted} worker(s) of {needs} each do not fit on any machine of the "
                f"cluster, which has {len(rooms)}: expected what one of them has; ask for fewer "
                "actors, processors or GPUs."
            )

    def rooms(self) -> dict[str, int]:
        """Number of workers that each machine is to have, by its id."""
        needs, nodes = self._needs, [node for node in self._nodes() if node["Alive"]]
        fit = {node["NodeID"]: needs.fit(node["Resources"]) for node in nodes}
        return {node: min(room, needs.actors or room) for node, room in fit.items()}

    def machine_name(self, node: str) -> str:
        """A machine's name."""
        names = {one["NodeID"]: one["NodeManagerHostname"] for one in self._nodes()}
        return names.get(node, node[:8])

    def put(self, job: bytes) -> Any:
        """A job where all workers can read it."""
        return self._ray.put(job)

    def start(self, node: str) -> Worker:
        """Start a worker on a machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = self._needs
        made: Any = self._ray.remote(RayWorker).options(
            num_cpus=needs.num_cpus,
            num_gpus=needs.num_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        threads = max(1, int(needs.num_cpus))
        worker = Worker(node, self._ask_head(lambda: made.remote(threads, needs.device)))
        self.workers.append(worker)
        return worker

    def wait(self, references: Sequence[Any]) -> list[tuple[Any, dict[str, Any] | None]]:
        """Wait a second at most for an answer; None of a worker that is lost."""
        from ray.exceptions import RayError

        if time.monotonic() - self._heard > HEARD:
            self._refuse_lost_head()
        if not references:
            time.sleep(0.2)
            return []
        ready, _ = self._ray.wait(references, num_returns=1, timeout=1.0)
        answers: list[tuple[Any, dict[str, Any] | None]] = []
        for reference in ready:
            try:
                answers.append((reference, self._ray.get(reference)))
            except RayError:
                answers.append((reference, None))
        return answers

    def drop(self, worker: Worker) -> None:
        """Forget a worker, and end it if it is still there."""
        self.workers.remove(worker)
        self._ray.kill(worker.actor)

    def close(self) -> None:
        """End all workers, and the cluster if it was started here."""
        if self._ray.is_initialized():
            for worker in list(self.workers):
                self.drop(worker)
            if self._mine:
                self._ray.shutdown()

    def _nodes(self) -> list[dict[str, Any]]:
        """The cluster's machines."""
        return self._ask_head(self._ray.nodes)

    def _ask_head(self, ask: Callable[[], Any]) -> Any:
        """Answer of the head, asked in a thread, so that one that is lost meanwhile is noticed."""
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


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        return True
    return False


def _connect(address: str | None, needs: Needs) -> tuple[Any, bool]:
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
                f"{short_repr(str(address))}: expected one at a time; close the other "
                f"executor first."
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
            f"Ray could not connect to {short_repr(address or 'local')} "
            f"({one_line(error)}): expected a "
            "cluster that this machine belongs to, with the same Ray and Python; start it with "
            "'ray start', or give its head's address."
        ) from error
    # Keep off the terminal what Ray prints of each lost worker, for which it has no option.
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private import worker

        if callable(worker.print_to_stdstream):
            worker.print_to_stdstream = lambda data, ignore_prefix: None
    return ray, True

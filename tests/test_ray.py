"""Runs on a Ray cluster of this machine: same tables, same folders, and what is refused."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import layerwise as lw
from layerwise.models.instance.facts import loading_arguments
from layerwise.runs.checkpoints import CheckpointStore, Machine, machines_used, note_machine
from layerwise.runs.executors import LOCAL, WorkUnit, make_missing
from layerwise.runs.folder import RunFolder
from layerwise.runs.progress import Meter
from layerwise.runs.ray_executor import RayExecutor
from layerwise.runs.ray_pool import Needs, WorkerPool
from layerwise.runs.travel import pack, unpack
from layerwise.storage.provenance import read_facts
from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.cases import in_long_runs
from tests.models.tiny import tiny_model

pytest.importorskip("ray")
# Ray leaves the processes that it started to the system when it shuts down.
pytestmark = pytest.mark.filterwarnings(
    "ignore:subprocess .* is still running:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)
N_ITEMS, AT_ONCE = 24, 6


@pytest.fixture(scope="module")
def workers() -> Iterator[RayExecutor]:
    """Two workers, started once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", commands.environment()["LAYERWISE_CACHE"])
        # Works of these tests are read by their workers, wherever these are started.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        with RayExecutor(actors=2) as executor:
            yield executor


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def connected(workers, model) -> None:
    """The cluster is there."""
    lw.ablate(model, [word_task(2)], "letter", layers=[0], executor=workers, progress=False)


@pytest.fixture
def small_pieces(monkeypatch) -> None:
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", AT_ONCE)


def ablation(model: Any, **more: Any) -> lw.AblationResult:
    return lw.ablate(
        model, [word_task(N_ITEMS)], ("letter", "generate"), progress=False, seed=3, **more
    )


@pytest.mark.long
def test_an_ablation_has_the_tables_of_a_local_one_and_says_who_made_it(
    workers, model, small_pieces
):
    here, there = ablation(model), ablation(model, executor=workers)
    pd.testing.assert_frame_equal(there.records, here.records)
    (machine,) = there.facts.machines
    assert machine["machine"] == socket.gethostname()
    assert machine["device"] == "cpu"
    assert len(machine["pieces"]) == N_ITEMS / AT_ONCE
    (made_under,) = there.facts.environments
    assert made_under == machine["environment"]
    assert made_under["threads"] == 1
    assert here.facts.machines == ()


def test_an_interrupted_run_goes_on_with_and_without_ray(
    workers, model, small_pieces, tmp_path, monkeypatch
):
    whole = ablation(model, out=tmp_path / "whole")

    def stop_after(n: int) -> None:
        kept = RunFolder.write_part

        def write(self: RunFolder, name: str, table: pd.DataFrame, *more: Any) -> None:
            if len(list(self.path.glob("parts/records*"))) >= n and name.startswith("records"):
                raise KeyboardInterrupt
            kept(self, name, table, *more)

        monkeypatch.setattr(RunFolder, "write_part", write)

    out = tmp_path / "in turns"
    for n, executor in ((1, None), (2, workers), (3, None)):
        with monkeypatch.context():
            stop_after(n)
            with pytest.raises(KeyboardInterrupt):
                ablation(model, out=out, executor=executor)
        monkeypatch.undo()
        monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", AT_ONCE)
    done = ablation(model, out=out, executor=workers)
    pd.testing.assert_frame_equal(done.records, whole.records)
    (machine,) = read_facts(out).machines
    assert len(machine["pieces"]) == 2  # the others were made by this process
    assert lw.verify(out).ok
    assert sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_rounds_of_decisions_are_spread_and_have_the_verdicts_of_a_local_run(workers, tmp_path):
    organism = lw.load_model("organism-decoder")
    run = {"limit": 96, "layers": [0, 2, 3], "progress": False}
    tasks = ["organism-lookup", "organism-facts"]
    here = lw.decide(organism, tasks, "continuation", **run)
    there = lw.decide(organism, tasks, "continuation", executor=workers, out=tmp_path, **run)
    pd.testing.assert_frame_equal(there.decisions(), here.decisions())
    (machine,) = there.facts.machines
    assert any("round 1" in name for name in machine["pieces"])
    assert lw.verify(tmp_path).ok


@pytest.fixture
def few_pairs(monkeypatch) -> None:
    monkeypatch.setattr("layerwise.analyses.patching.pairs.BATCH", 12)
    monkeypatch.setattr("layerwise.analyses.patching.pairs.PAIRS_AT_ONCE", 2)


PATCHED: dict[str, Any] = {"pairs": 5, "limit": 30, "progress": False}


@pytest.mark.long
@pytest.mark.parametrize("analysis", [lw.patch_activations, *in_long_runs((lw.patch_paths,))])
def test_workers_share_the_pairs_of_one_task(workers, analysis, few_pairs, tmp_path, monkeypatch):
    model = lw.load_model("organism-letters")

    def patched(**more: Any) -> Any:
        return analysis(model, "letters-lookup", **PATCHED, **more)

    here, out = patched(), tmp_path / "run"
    kept, n_kept = RunFolder.write_part, 0

    def write_four(self: RunFolder, name: str, table: pd.DataFrame, *more: Any) -> None:
        nonlocal n_kept
        n_kept += name.startswith("records")
        if n_kept == 5:  # of the pairs that are chosen one piece is patched
            raise KeyboardInterrupt
        kept(self, name, table, *more)

    monkeypatch.setattr(RunFolder, "write_part", write_four)
    with pytest.raises(KeyboardInterrupt):
        patched(out=out)
    monkeypatch.setattr(RunFolder, "write_part", kept)
    there, (table,) = patched(out=out, executor=workers), here.tables
    pd.testing.assert_frame_equal(getattr(there, table), getattr(here, table))
    assert getattr(here, table)["item"].nunique() == 5
    (machine,) = there.facts.machines
    assert len(machine["pieces"]) == 2  # three of asking and one of patching were there
    (mine,), (others,) = here.facts.work, there.facts.work
    assert {**mine, "seconds": 0.0} == {**others, "seconds": 0.0}
    assert mine["planned_token_passes"] == mine["token_passes"]
    assert mine["pairs"] == 5
    assert lw.verify(out).ok


def odd_ones_fail(number: int, told: str) -> dict[str, pd.DataFrame]:
    """A piece, unless its number is 3."""
    if number == 3:
        raise ValueError(f"{told} {number}\x1b[31m")
    return {f"made {number}": pd.DataFrame({"number": [number]})}


def test_a_piece_that_fails_three_times_is_named_and_the_others_are_kept(workers):
    parts = CheckpointStore()
    works = [WorkUnit((f"made {i}",), "making", 1.0, (i, "cannot do")) for i in range(6)]
    with pytest.raises(lw.UserError) as caught:
        make_missing(workers, parts, Meter(), works, odd_ones_fail)
    told = str(caught.value)
    assert "1 piece of the run could not be made: 'made 3' failed 3 times" in told
    assert "ValueError: cannot do 3\\x1b[31m" in told
    assert parts.has_part(*(f"made {i}" for i in (0, 1, 2, 4, 5)))
    assert not parts.has_part("made 3")


def test_workers_with_other_weights_are_refused(workers, tmp_path):
    import torch

    model = lw.load_model(commands.model_folder(), device="cpu")
    with torch.no_grad():
        model.W_U.mul_(2.0)  # in this process alone
    with pytest.raises(lw.UserError, match=r"has other weights there \(hash .*copy the files"):
        ablation(model, executor=workers, out=tmp_path)


def test_a_model_without_a_name_is_refused(model):
    import copy

    from layerwise.models.instance.facts import _ATTRIBUTE

    own = copy.deepcopy(model)
    delattr(own, _ATTRIBUTE)
    with pytest.raises(lw.UserError, match=r"was passed as an object.*load_model\(name\)"):
        ablation(own, executor=RayExecutor(actors=2))
    assert loading_arguments(model)["dtype"] == "float32"


def a_free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def test_an_address_at_which_nobody_listens_is_refused_at_once(model, tmp_path):
    address = f"127.0.0.1:{a_free_port()}"
    started = time.monotonic()
    with pytest.raises(lw.UserError, match=f"No head of a Ray cluster answers at '{address}'"):
        ablation(model, executor=RayExecutor(address))
    task = write_jsonl(tmp_path / "mine.jsonl", word_task(4, "mine").items)
    asked = ["ablate", commands.model_folder(), "--task", task, "--ray", f"{address},actors=2"]
    commands.assert_refused(commands.run(*asked), "No head of a Ray cluster answers")
    assert time.monotonic() - started < 5


def connected_pool(address: str, ray: Any) -> WorkerPool:
    """A pool that is connected to a cluster whose head is at an address."""
    pool = WorkerPool.__new__(WorkerPool)
    vars(pool).update(_ray=ray, _needed=[address], _heard=0.0, workers=[])
    return pool


def test_a_head_that_is_lost_ends_the_run_at_once():
    pool = connected_pool(f"127.0.0.1:{a_free_port()}", None)
    with pytest.raises(lw.UserError, match=r"Ray does not answer at 127.*pieces.*are kept"):
        pool.wait([])


def test_a_head_that_is_lost_while_it_is_asked_ends_the_run(monkeypatch):
    monkeypatch.setattr("layerwise.runs.ray_pool.HEARD", 0.05)
    lost, server = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def nodes() -> None:
        server.close()
        lost.wait(20)

    pool = connected_pool(f"127.0.0.1:{server.getsockname()[1]}", SimpleNamespace(nodes=nodes))
    with pytest.raises(lw.UserError, match="Ray does not answer at"):
        pool.machine_name("machine")
    lost.set()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_address_at_which_somebody_else_listens_is_refused(monkeypatch, answer):
    monkeypatch.setattr("layerwise.runs.ray_pool.REACH", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer:
            threading.Thread(target=lambda: server.accept()[0].sendall(answer), daemon=True).start()
        executor = RayExecutor(address)
        with pytest.raises(lw.UserError, match="No head of a Ray cluster answers"):
            executor.refuse_unreachable()


def test_without_ray_its_extra_is_named(model, monkeypatch):
    monkeypatch.setattr("layerwise.runs.ray_pool.util.find_spec", lambda name: None)
    with pytest.raises(lw.UserError, match=r"Ray is not installed.*layerwise\[ray\]"):
        ablation(model, executor=RayExecutor())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": "head:0"}, "address of a Ray cluster is"),
        ({"num_cpus": 0}, "Argument 'num_cpus' is 0.0; expected a finite number, such as 1.0, at"),
        ({"num_cpus": True}, "Argument 'num_cpus' is True"),
        ({"num_gpus": float("nan")}, "Argument 'num_gpus' is nan"),
        ({"actors": 0}, "Argument 'actors' is 0; expected a whole number, such as 8, at least 1"),
        ({"device": "tpu"}, "device of Ray's workers is 'tpu'; expected one of cpu, cuda, mps"),
    ],
)
def test_options_that_are_none_are_refused(options, says):
    with pytest.raises(lw.UserError) as caught:
        RayExecutor(**options)
    assert says in str(caught.value)


def test_a_text_names_a_cluster_and_what_workers_take():
    assert RayExecutor.from_text("local") == RayExecutor()
    read = RayExecutor.from_text("10.0.0.1:6379,actors=8,gpus=0.5,cpus=4,device=cuda:0")
    assert read == RayExecutor("10.0.0.1:6379", num_cpus=4, num_gpus=0.5, actors=8, device="cuda:0")
    assert RayExecutor(num_gpus=1).device_of_workers == "cuda"
    assert RayExecutor().device_of_workers == "cpu"


def test_more_workers_than_a_machine_has_room_for_are_refused(connected, model):
    with pytest.raises(lw.UserError, match=r"64 worker\(s\) of 4 processor\(s\) and 1 GPU\(s\)"):
        ablation(model, executor=RayExecutor(actors=64, num_cpus=4, num_gpus=1))


def test_a_second_cluster_in_one_process_is_refused(connected, model, monkeypatch):
    monkeypatch.setattr("layerwise.runs.ray_executor.refuse_silent", lambda address: None)
    with pytest.raises(lw.UserError, match=r"connected to another Ray cluster \(.*'head:1'"):
        ablation(model, executor=RayExecutor("head:1"))


def test_workers_fit_by_what_is_scarcest():
    has = {"CPU": 16.0, "GPU": 4.0}
    assert Needs(1, 0, None, "cpu").fit(has) == 16
    assert Needs(1, 1, None, "cuda").fit(has) == 4
    assert Needs(1, 0.5, None, "cuda").fit(has) == 8
    assert Needs(8, 1, None, "cuda").fit(has) == 2
    assert Needs(1, 1, None, "cuda").fit({"CPU": 16.0}) == 0
    assert Needs(0.1, 0, None, "cpu").fit({"CPU": 1.0}) == 10


def test_a_job_travels_without_its_model_and_finds_another(model):
    from layerwise.analyses.ablation.job import Ablation
    from layerwise.analyses.ablation.spec import AblationSpec
    from layerwise.runs.encoding import EncodingCache
    from layerwise.runs.setup import prepare

    setup = prepare(model, [word_task(4)], ("letter",), executor=RayExecutor())
    job = Ablation(setup, (AblationSpec.for_model(model, "skip", None, (0, 1)),))
    content, models = pack(job.measure)
    assert models == [model]
    assert len(content) < 20_000
    other = tiny_model("llama", seed=1)
    measure = unpack(content, [other], EncodingCache())
    assert measure.__self__.setup.model is other
    assert measure.__self__.setup.executor is LOCAL
    assert measure.__self__.setup.tasks == setup.tasks


@pytest.mark.long
def test_the_machine_of_a_piece_that_is_made_again_here_is_forgotten():
    parts = CheckpointStore()
    note_machine(parts, "a", None)
    assert not parts.has_part("machines")
    for piece in ("a", "b"):
        note_machine(parts, piece, Machine("node-1", "cpu"))
    note_machine(parts, "a", Machine("node-2", "cpu"))
    assert [one["pieces"] for one in machines_used(parts)] == [["b"], ["a"]]
    note_machine(parts, "b", None)
    assert machines_used(parts) == ({"machine": "node-2", "device": "cpu", "pieces": ["a"]},)
    note_machine(parts, "b", Machine("node-1", "cpu", {"threads": 2}))
    assert machines_used(parts)[0]["environment"] == {"threads": 2}
    assert {"threads": 2} in parts.environments()

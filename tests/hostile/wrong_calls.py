"""Wrong calls, each with what its sentence must say: what was wrong, what was expected, what to do.

Commands are lists of words, calls in Python functions of a ``Place``. ``MODEL`` in a command stands
for a tiny model's folder; other names for files of the place (``tests.hostile.test_wrong_calls``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import layerwise as lw
from layerwise.analyses.tuned_lens.api import train_lens
from layerwise.planning.plan import plan_run

LONG = "x" * 300
MODEL = "MODEL"
WORDS = ("--task", "good.jsonl", "--protocol", "continuation")


@dataclass(frozen=True)
class Place:
    """Arguments of calls: a model, a task that it can be asked, and a folder with files."""

    model: Any
    task: Any
    folder: Path


class Command(NamedTuple):
    """A command that must end with one sentence and exit code 2."""

    name: str
    words: tuple[str, ...]
    says: tuple[str, ...]


class Call(NamedTuple):
    """A call in Python that must raise one sentence."""

    name: str
    call: Callable[[Place], object]
    says: tuple[str, ...]


def ablating(**options: Any) -> Callable[[Place], object]:
    """Ablation with some options, into a folder that must not be made."""
    given = {"protocols": "continuation", "progress": False, "out": "run"} | options
    return lambda at: lw.ablate(at.model, **{"tasks": at.task} | given)


def of(function: Callable[..., object], **options: Any) -> Callable[[Place], object]:
    """An analysis with some options."""
    return lambda at: function(at.model, **{"tasks": at.task} | options)


def reading(**options: Any) -> Callable[[Place], object]:
    """A lens with some options."""
    return of(lw.logit_lens, protocols="continuation", **options)


def own(**changes: Any) -> Callable[[Place], object]:
    """Ablation of an own task that was changed."""
    return lambda at: lw.ablate(at.model, replace(at.task, **changes), "continuation")


def at_own(function: Callable[..., object], options: Any = None, **changes: Any) -> Any:
    """Another analysis of an own task that was changed."""
    return lambda at: function(at.model, replace(at.task, **changes), **(options or {}))


def loading(name: Any, **options: Any) -> Callable[[Place], object]:
    """Loading of a model."""
    return lambda at: lw.load_model(name, **options)


def scoring(**options: Any) -> Callable[[Place], object]:
    """Head scores with some options."""
    return lambda at: lw.head_scores(at.model, **options)


def reading_text(**options: Any) -> Callable[[Place], object]:
    """Text loss with some options."""
    return lambda at: lw.text_loss(at.model, **options)


WHOLE = "expected a whole number, such as"
LISTED = "expected a list of whole numbers, such as [0, 1]"
NAMED = "expected a text or a list of texts, such as"
FINITE = "expected a finite number, such as"
TRUTH = "expected True or False"
LOADED = "expected a loaded model: load it first, with layerwise.load_model(...)."
FOLDER = "expected the path of a file or folder, '.' for the one that you are in"
EXEC = "expected a RayExecutor, such as RayExecutor(actors=2)"
NOBODY = "127.0.0.1:1"  # where no machine has a head of a cluster
EMPTY_NAME = "expected an alias such as smollm2-135m"

CALLS = [
    Call("seed is a bool", ablating(seed=True), ("'seed' is True", WHOLE)),
    Call("seed is a text", ablating(seed="0"), ("'seed' is '0', of type str", WHOLE)),
    Call("seed is a float", ablating(seed=1.0), ("'seed' is 1.0, of type float", WHOLE)),
    Call("seed is NaN", ablating(seed=np.nan), ("'seed' is nan", WHOLE)),
    Call("seed is None", ablating(seed=None), ("'seed' is None", WHOLE)),
    Call("seed is negative", ablating(seed=-1), ("'seed' is -1", "at least 0")),
    Call("seed is huge", ablating(seed=10**40), ("of 133 bits", "of at most 63 bits")),
    Call("seed of many digits", ablating(seed=10**5000), ("bits", "of at most 63 bits")),
    Call("seed is an array", ablating(seed=np.array([1, 2])), ("'seed' is array([1, 2])", WHOLE)),
    Call("seed is half a tensor", ablating(seed=torch.tensor(1.5)), ("'seed' is tensor", WHOLE)),
    Call("limit is 0", ablating(limit=0), ("'limit' is 0", "at least 1")),
    Call("few-shot is negative", ablating(fewshot=-1), ("-1 cannot be taken", "from 0 to")),
    Call("few-shot is too many", ablating(fewshot=99), ("99 cannot be taken", "ask for a number")),
    Call("chat is a number", ablating(chat=1), ("'chat' is 1", TRUTH)),
    Call("chat without a template", ablating(chat=True), ("no chat template", "expected one")),
    Call("budget is a text", ablating(memory_budget="2GiB"), ("'memory_budget' is '2GiB'", WHOLE)),
    Call("budget is small", ablating(memory_budget=1000), ("'memory_budget' is 1,000", "at least")),
    Call("no tasks", ablating(tasks=[]), ("Nothing to do", "at least one task")),
    Call("no protocols", ablating(protocols=[]), ("Nothing to do", "one protocol")),
    Call("task is a number", ablating(tasks=3), ("'tasks' is 3", "a task's name, the path")),
    Call("task is None", ablating(tasks=None), ("'tasks' is None", "a task's name, the path")),
    Call("task unknown", ablating(tasks="fact"), ("Unknown task 'fact'", "Did you mean 'facts'?")),
    Call("task file missing", ablating(tasks="no.jsonl"), ("'no.jsonl' cannot be read", "give")),
    Call("task name too long", ablating(tasks=LONG), ("Unknown task", "Expected one of")),
    Call("task file name too long", ablating(tasks=f"{LONG}.jsonl"), ("306 bytes", "shorter one")),
    Call("task with escapes", ablating(tasks="\x1b[31m.jsonl"), ("'\\x1b[31m.jsonl'", "give the")),
    Call("task is a folder", lambda at: lw.load_task(at.folder), ("Unknown task", "Expected one")),
    Call("protocol unknown", ablating(protocols="leter"), ("Unknown protocol", "mean 'letter'?")),
    Call("protocol is a number", ablating(protocols=3), ("'protocols' is 3", NAMED)),
    Call("protocol without chance", own(chance={}), ("no chance level", "add it")),
    Call("layer out of range", ablating(layers=[9]), ("Layer 9 is out of range", "layers 0 to")),
    Call("no layers", ablating(layers=[]), ("No layers are left", "name at least one")),
    Call("layers as in a command", ablating(layers="0-2"), ("'layers' is '0-2'", LISTED)),
    Call("a layer alone", ablating(layers=1), ("'layers' is 1, of type int", LISTED)),
    Call("a layer is a float", ablating(layers=[0.5]), ("'layers' is 0.5", LISTED)),
    Call("layers as a mask", ablating(layers=np.array([True, False])), ("'layers' is", LISTED)),
    Call("layers without end", ablating(layers=iter(int, 1)), ("more than 100,000 entries",)),
    Call("address of no stack", ablating(layers=["encoder.0"]), ("'encoder.0'", "one of 0")),
    Call("heads of no site", ablating(heads=[0]), ("Heads were named", "use site z")),
    Call("heads empty", ablating(site="z", heads=[]), ("No heads are left", "name at least one")),
    Call("head out of range", ablating(site="z", heads=[64]), ("64 is out of range", "heads 0 to")),
    Call("head by name", ablating(site="z", heads=["a"]), ("'heads' is 'a'", "[0, 2]")),
    Call("kind unknown", ablating(kind="skp"), ("Unknown kind of ablation", "mean 'skip'?")),
    Call("kind is None", ablating(kind=None), ("'kind' is None", "expected a text, such as")),
    Call("site unknown", ablating(site="attn"), ("Unknown site", "Expected one of: attn_out")),
    Call("site of another kind", ablating(kind="zero", site="layer"), ("attn_out, kv_group",)),
    Call("block of none", ablating(block=0), ("Blocks of 0 layers", "expected from 1 to the")),
    Call("block too large", ablating(block=9), ("Blocks of 9 layers", "expected from 1 to the")),
    Call("block with a gap", ablating(block=2, layers=[0, 2]), ("layers that follow one another",)),
    Call("block and set", ablating(block=2, as_one=True), ("both asked for", "choose one")),
    Call("means by the moon", ablating(mean_by="moon"), ("Unknown way to take means 'moon'",)),
    Call("means of a skip", ablating(mean_by="position"), ("but kind is 'skip'", "use mean")),
    Call("method unknown", ablating(method="engin"), ("Unknown method", "mean 'engine'?")),
    Call("out is empty", ablating(out=""), ("'out' is ''", "the path of a file or folder")),
    Call("out is a number", ablating(out=3), ("'out' is 3", "as a text or a Path")),
    Call("out is too long", ablating(out=LONG), ("a name of 300 bytes", "choose a shorter one")),
    Call("out is too deep", ablating(out="a/" * 3000), ("6000 bytes", "choose a shorter one")),
    Call("out with a null", ablating(out="a\0b"), ("'a\\x00b'", "that no path can have")),
    Call("out with half a character", ablating(out="\ud800"), ("that no path can have",)),
    Call("out of nobody", ablating(out="~nosuchuser/x"), ("the home folder", "begins with './'")),
    Call("model by name", lambda at: lw.ablate("gpt2"), ("'model' is 'gpt2'", LOADED)),
    Call("model by path", lambda at: lw.similarity(at.folder), ("'model' is", LOADED)),
    Call("model is None", lambda at: lw.head_scores(None), ("'model' is None", LOADED)),
    Call("model of torch", lambda at: lw.profile(torch.nn.Linear(1, 1)), ("type Linear", LOADED)),
    Call("name is empty", loading(""), ("name is empty", EMPTY_NAME)),
    Call("name is a number", loading(3), ("'name' is 3", "a model's name: an")),
    Call("name is too long", loading(LONG), ("a name of 300 bytes", "shorter")),
    Call("dtype of torch", loading("a/b", dtype=torch.half), ("'dtype' is torch.float16", "text")),
    Call("offload is a bool", loading("a/b", offload=True), ("is True", "'disk'")),
    Call("two tasks of one name",
         lambda at: lw.ablate(at.model, [at.task, replace(at.task, items=at.task.items[:1])]),
         ("have the same name", "rename one")),
    Call("a task twice", lambda at: lw.ablate(at.model, ["facts", "facts"]),
         ("'facts' is given twice", "leave one out")),
    Call("lens unknown", of(lw.logit_lens, lens="tunde"), ("Unknown lens", "mean 'tuned'?")),
    Call("lens of no site", of(lw.logit_lens, sites=[]), ("'sites' is empty", "name at least one")),
    Call("lens at a site that is none", of(lw.logit_lens, sites="z"), ("'z'", "resid_post")),
    Call("lens over nothing", of(lw.logit_lens, over="all"), ("Unknown kind of tokens", "prompt")),
    Call("lens at a position of no text", of(lw.logit_lens, positions="last"), ("'last'", "'all'")),
    Call("lens at no position", of(lw.logit_lens, positions=[]), ("negative numbers", "or all")),
    Call("lens at half a position", of(lw.logit_lens, positions=[-0.5]), ("-0.5", "[-2, -1]")),
    Call("lens of a long path", of(lw.logit_lens, lens="tuned", tuned=LONG), ("300 bytes",)),
    Call("lens of no file", reading(lens="tuned", tuned="no"), ("missing", "train it again")),
    Call("lens given and not read", reading(tuned="no"), ("is 'logit'", "leave the tuned lens")),
    Call("rate is infinite", of(train_lens, rate=np.inf), ("'rate' is inf", FINITE)),
    Call("rate is 0", of(train_lens, rate=0), ("at rate 0.0", "a rate above 0")),
    Call("rate is huge", of(train_lens, rate=1e308), ("at rate 1e+308", "at most 1,000")),
    Call("no steps", of(train_lens, steps=0), ("in 0 steps", "expected one step or more")),
    Call("kind of lens unknown", of(train_lens, kind="affine"), ("Unknown kind of tuned lens",)),
    Call("text is no text", of(train_lens, text="a.md"), ("Cannot take text", "a .txt file, or")),
    Call("text name too long", of(train_lens, text=LONG), ("a name of 300 bytes", "shorter")),
    Call("one piece of text", reading_text(pieces=1), ("1 pieces of text", "expected 2 at least")),
    Call("running text is no text", reading_text(text="a.md"), ("Cannot take text", "a .txt")),
    Call("running text is not there", reading_text(text="no.txt"), ("Cannot read", "check the")),
    Call("running text has lines of tasks", reading_text(text="good.jsonl"),
         ("line 1", "a field 'text'")),
    Call("running text name too long", reading_text(text=LONG), ("300 bytes", "shorter")),
    Call("change of text unknown", reading_text(changes="skpi"), ("Unknown change", "'skip'?")),
    Call("no change of text", reading_text(changes=[]), ("'changes' is empty", "name at least")),
    Call("text that no claim reads",
         lambda at: lw.replicate(at.model, "song-3", text="no.txt"), ("None of these", "leave")),
    Call("text of claims is no text",
         lambda at: lw.replicate(at.model, "lad-2", text="a.md"), ("Cannot take text", "a .txt")),
    Call("patch of no pairs", of(lw.patch_activations), ("has no pairs", "patching")),
    Call("patch of no site", of(lw.patch_activations, sites=[]), ("'sites' is empty", NAMED)),
    Call("patch at a number", of(lw.patch_activations, positions=[3]), ("'positions' is 3", NAMED)),
    Call("patch of a text", of(lw.patch_activations, kl="yes"), ("'kl' is 'yes'", TRUTH)),
    Call("path to nowhere", of(lw.patch_paths, receivers=[]), ("'receivers' is empty", "name at")),
    Call("path by a number", of(lw.patch_paths, receivers=5), ("'receivers' is 5", NAMED)),
    Call("direction unknown", of(lw.patch_paths, direction="up"), ("Unknown direction", "noising")),
    Call("against nobody", of(lw.attribution, against="worst"), ("'worst'", "Expected one of")),
    Call("similarity of texts", of(lw.similarity, protocols="generate"), ("so ask for that",)),
    Call("threshold is NaN", scoring(threshold=np.nan), ("'threshold' is nan", FINITE)),
    Call("threshold is 1", scoring(threshold=1), ("threshold is 1.0", "0 or more, below 1")),
    Call("no sequences", scoring(sequences=0), ("0 sequences", "at least 1")),
    Call("many sequences", scoring(sequences=10**9), ("rows or more of heads.parquet", "GiB")),
    Call("many draws", ablating(kind="noise", site="resid_post", draws=10**9),
         ("1,000,000,000 draws would make", "rows or more of records.parquet", "ask for fewer")),
    Call("plan of many draws", of(plan_run, kind="noise", site="resid_post", draws=10**9),
         ("1,000,000,000 draws would make", "GiB of memory")),
    Call("many resamples", lambda at: lw.compare(["a", "b"], n_resamples=10**9),
         ("1,000,000,000", "bootstrap samples", "at most 100,000")),
    Call("length is huge", scoring(length=10**6), ("1000000 different", "expected 2 to 128")),
    Call("pairs of one", of(lw.interactions, layers=[1]), ("Only one", "at least two")),
    Call("sets of three", of(lw.interactions, order=3), ("The order is 3", "expected 2")),
    Call("no sets", of(lw.interactions, order=1), ("Nothing", "expected order 2")),
    Call("removal of none", of(lw.removal_order, n_removed=0), ("0", "expected")),
    Call("removal of all", of(lw.removal_order, n_removed=3), ("3", "expected")),
    Call("removal by luck", of(lw.removal_order, n_removed=1, by="luck"), ("Unknown", "greedy")),
    Call("held out all", of(lw.removal_order, n_removed=1, held_out=1.0), ("1.0", "expected")),
    Call("also nonsense", of(lw.profile, also="everything"), ("Unknown", "Expected one of")),
    Call("prune by a number", of(lw.prune_model, remove=1, out="x"), ("'remove' is 1", "[0, 1]")),
    Call("prune into nothing", of(lw.prune_model, remove=[0], out=""), ("'out' is ''", "path")),
    Call("removal without chance", at_own(lw.removal_order, {"n_removed": 1}, chance={}),
         ("no chance level", "add it")),
    Call("lens of an own task", at_own(train_lens, source="built-in"), ("cannot make any", "text")),
    Call("plan of nothing", lambda at: plan_run(""), ("name is empty", EMPTY_NAME)),
    Call("plan of a number", lambda at: plan_run(3), ("'model' is of type int", LOADED)),
    Call("plan of no analysis", of(plan_run, analysis="all"), ("Unknown analysis", "profile")),
    Call("plan of a lens by kind", of(plan_run, analysis="lens", kind="zero"), ("'kind'", "leave")),
    Call("plan of a profile's site", of(plan_run, analysis="profile", site="z"), ("'site'",)),
    Call("plan of too much", of(plan_run, exhaustive=True), ("plan 'profile', or leave it out",)),
    Call("report of nothing", lambda at: lw.report([]), ("There is nothing to report", "run an")),
    Call("report of a text", lambda at: lw.report("run"), ("'results' is 'run'", "expected")),
    Call("report of no folder", lambda at: lw.report_from_folders([]), ("nothing to report",)),
    Call("results of nowhere", lambda at: lw.load("no"), ("No folder no", "check the")),
    Call("results of nothing", lambda at: lw.load(""), ("'folder' is ''", "the path of")),
    Call("comparison of one", lambda at: lw.compare(["a"]), ("expected",)),
    Call("comparison of None", lambda at: lw.compare(None), ("'runs' is None", "a list of them")),
    Call("comparison of few draws", lambda at: lw.compare(["a", "b"], n_resamples=3), ("too few",)),
    Call("a group of no name", lambda at: lw.compare({"": ["a"]}), ("a name for each group",)),
    Call("emergence of nothing", lambda at: lw.emergence([]), ("nothing to join", "expected")),
    Call("groups in a list", lambda at: lw.emergence([], groups=["a"]), ("by the name of their",)),
    Call("executor is a number", ablating(executor=3), ("'executor' is 3", EXEC)),
    Call("executor is no value", ablating(executor=lw.RayExecutor), ("'executor' is <class", EXEC)),
    Call("executor is a text", of(lw.profile, executor="auto"), ("'executor' is 'auto'", EXEC)),
    Call("executor of nobody", ablating(executor=lw.RayExecutor(NOBODY)), ("No head", NOBODY)),
    Call("lens of nobody", reading(executor=lw.RayExecutor(NOBODY)), ("No head", "start one")),
    Call("address of no port", lambda at: lw.RayExecutor("head"), ("'head'", "such as 10.0.0.1")),
    Call("actors", lambda at: lw.RayExecutor(actors=10**9), ("1,000,000,000", "at most 10,000")),
    Call("less than no GPU", lambda at: lw.RayExecutor(num_gpus=-1), ("-1.0", "at least 0.0")),
    Call("GPUs by the googol", lambda at: lw.RayExecutor(num_gpus=1e100), ("1e+100", "at most")),
    Call(
        "GPUs for a model on the CPU", lambda at: lw.RayExecutor(num_gpus=1, device="cpu"),
        ("have 1 GPU(s) each and the model on cpu", "leave num_gpus or the device out"),
    ),
    Call("workers on no device", lambda at: lw.RayExecutor(device="gpu"), ("'gpu'", "one of cpu")),
    Call("names of no language", lambda at: lw.task_names(3), ("'language' is 3", "a text")),
]  # fmt: skip

COMMANDS = [
    Command("ray of nobody", ("ablate", MODEL, *WORDS, "--ray", NOBODY), ("No head", "start one")),
    Command("patching of nobody", ("patch", MODEL, "--ray", NOBODY), ("No head", "check the")),
    Command("profile of nobody", ("profile", MODEL, "--ray", NOBODY), ("No head", "check the")),
    Command("ray of no port", ("lens", MODEL, "--ray", "head"), ("'head'", "such as 10.0")),
    Command("ray of no such port", ("lens", MODEL, "--ray", "head:99999"), ("99999'", "auto")),
    Command("ray as a URL", ("lens", MODEL, "--ray", "ray://h:1"), ("'ray://h:1'", "or auto")),
    Command("ray of nothing", ("lens", MODEL, "--ray", ""), ("cluster is ''", "leave it out")),
    Command("ray of escapes", ("lens", MODEL, "--ray", "\x1b[31m:1"), ("\\x1b[31m", "No head")),
    Command("ray unknown", ("lens", MODEL, "--ray", "auto,nodes=2"), ("nodes=2'", "expect")),
    Command("ray of many", ("lens", MODEL, "--ray", "auto,actors=all"), ("'auto,actors=all'",)),
    Command("ray twice", ("lens", MODEL, "--ray", "local,gpus=1,gpus=2"), ("gpus is given twice",)),
    Command(
        "ray on two devices", ("lens", MODEL, "--ray", "local,gpus=1,device=cpu"),
        ("have 1 GPU(s) each and the model on cpu", "expected one or the other"),
    ),
    Command("empty model", ("ablate", ""), ("name is empty", EMPTY_NAME)),
    Command("blank model", ("profile", "  "), ("name is empty", "'.' for the folder")),
    Command("long model", ("lens", LONG), ("a name of 300 bytes", "choose a shorter one")),
    Command("empty plan", ("plan", ""), ("name is empty", "an alias")),
    Command("empty model described", ("models", ""), ("name is empty", "an alias")),
    Command("long out", ("ablate", MODEL, "--out", LONG), ("at most 255 bytes", "choose")),
    Command("huge seed", ("ablate", MODEL, "--seed", "9" * 30), ("'seed'", "at most 63 bits")),
    Command("layers backwards", ("ablate", MODEL, *WORDS, "--layers", "2-1"),
            ("2-1 runs backwards", "expected the smaller number first, 1-2")),
    Command("heads backwards", ("ablate", MODEL, "--site", "z", "--heads", "0,3-1"),
            ("heads '0,3-1'", "3-1 runs backwards", "1-3")),
    Command("empty out", ("ablate", MODEL, *WORDS, "--out", ""), ("'out' is ''", FOLDER)),
    Command("prune to nowhere", ("prune", MODEL, "--remove", "1", "--out", ""), ("'out'", FOLDER)),
    Command("report of an empty name", ("report", ""), ("'folders' is ''", FOLDER)),
    Command("nothing to list", ("items", "", "--layer", "1", "--task", "facts"),
            ("'run' is ''", FOLDER)),
    Command("items of no run", ("items", "none", "--layer", "9" * 30, "--task", "\x1b[31m"),
            ("No folder none", "check the path")),
    Command("score of nothing", ("score", MODEL, *WORDS, "--limit", "0"), ("at least 1",)),
    Command("nothing to verify", ("verify", ""), ("'folder' is ''", FOLDER)),
    Command("comparison of empty names", ("compare", "", "a"), ("'runs' is ''", FOLDER)),
    Command("layers of text", ("ablate", MODEL, "--layers", "all"), ("Cannot read", "0-5,9")),
    Command("pipe", ("ablate", MODEL, "--task", "pipe.jsonl"), ("a pipe or a device", "give the")),
    Command("folder of task", ("ablate", MODEL, "--task", "folder.jsonl"), ("(Is a directory)",)),
    Command("red task", ("ablate", MODEL, "--task", "\x1b[31m.jsonl"), ("\\x1b[31m.jsonl",)),
    Command("turned task", ("ablate", MODEL, "--task", "\u202e.jsonl"), ("\\u202e.jsonl",)),
    Command("lens of a text", ("lens", MODEL, *WORDS, "--lens", "tuned", "--tuned", "good.jsonl"),
            ("not a tuned lens", "train it again")),
    Command("lens text of a pipe", ("train-lens", MODEL, *WORDS[:2], "--text", "pipe.jsonl"),
            ("a pipe or a device", "no ordinary file")),
    Command("running text of a pipe", ("text-loss", MODEL, "--text", "pipe.jsonl"),
            ("a pipe or a device", "no ordinary file")),
    Command("running text of a folder", ("text-loss", MODEL, "--text", "folder.jsonl"),
            ("(Is a directory)",)),
    Command("a task as a log", ("compare", "good.jsonl", "good.jsonl"),
            ("line 1: field 'doc_id' is missing", "--log_samples")),
    Command("a log and a run", ("compare", "good.jsonl", "a"), ("two at a time", "two files")),
    Command("a page of logs", ("compare", "good.jsonl", "good.jsonl", "--out", "page"),
            ("without a page", "leave --out out")),
    Command("runs and groups", ("compare", "a", "b", "--group", "x=a"), ("at once", "--group")),
    Command("plan of more", ("plan", MODEL, *WORDS, "--also", "heads"),
            ("only the plan of 'profile'", "leave it out")),
    Command("plan of a patch's kind", ("plan", MODEL, "--analysis", "patching", "--kind", "zero"),
            ("'kind' was given", "plan 'ablation', or leave it out")),
    Command("disk for nothing", ("models", "--offload", "disk"), ("no model was named",)),
    Command("no budget", ("ablate", MODEL, "--memory-budget", "lots"), ("such as 2GiB", "'lots'")),
    Command("infinite budget", ("ablate", MODEL, "--memory-budget", "inf"), ("memory budget",)),
    Command("negative budget", ("ablate", MODEL, "--memory-budget=-1GiB"), ("memory budget",)),
]  # fmt: skip

# Refused by the command line's own parser: with its usage, and exit code 2.
UNKNOWN = [
    ("ablate", MODEL, "--sed", "1"),
    ("ablate", MODEL, "another"),
    ("ablate", MODEL, "--seed", "one"),
    ("ablate", MODEL, "--limit", "1.5"),
    ("ablate", MODEL, "--chat", "yes"),
    ("heads", MODEL, "--task", "facts"),
    ("heads", MODEL, "--threshold", "high"),
    ("train-lens", MODEL, "--lens", "tuned"),
    ("attribution-patch", MODEL, "--kl"),
    ("remove", MODEL, "--task", "facts"),
    ("prune", MODEL, "--remove", "0"),
    ("distill", MODEL, MODEL),
    ("distill", MODEL, "--out", "x"),
    ("report",),
    ("ablate",),
    ("ablat", MODEL),
    ("--verson",),
]

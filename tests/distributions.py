"""Build the distributions of a clean copy, and use the wheels where this repository is not.

    python tests/distributions.py [FOLDER]

writes the source distribution and two wheels to FOLDER (``dist``). The wheel of layerwise is
installed beside nothing but what its own metadata asks for, and profiles an organism there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from fnmatch import fnmatch
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
WEIGHTS = Path("src", "layerwise", "models", "organisms", "weights")
# What neither git nor a distribution has: at the top, and anywhere.
AT_THE_TOP = {".git", ".venv", "build", "demo", "dist", "runs"}
ANYWHERE = ("__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".ipynb_checkpoints")
HOOK = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
LARGEST = 6_000_000


def checked(*command: object, cwd: Path | None = None, **variables: object) -> str:
    """Output of a command that must end well, and knows neither this folder nor pip's settings."""
    own = ("PYTHON", "PIP_", "LAYERWISE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    given = {"PIP_CONFIG_FILE": os.devnull, **variables}
    ended = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd,
        env=kept | {name: str(value) for name, value in given.items()},
    )  # fmt: skip
    if ended.returncode:
        sys.exit(f"Failed: {' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def build(kind: str, source: Path, out: Path, tools: Path) -> Path:
    """Build an ``sdist`` or a ``wheel``; its file."""
    before = set(out.iterdir())
    hook = HOOK.format(kind)
    checked(sys.executable, "-c", hook, out, cwd=source, PYTHONPATH=tools)
    (built,) = set(out.iterdir()) - before
    return built


def requirements(wheel: Path) -> list[str]:
    """Requirements in a wheel's metadata, those of extras included."""
    with ZipFile(wheel) as files:
        (name,) = (one for one in files.namelist() if one.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(files.read(name).decode()).get_all("Requires-Dist") or []


def needed(asked: Iterable[str]) -> Iterator[metadata.Distribution]:
    """Installed distributions that requirements name, and all that those need."""
    seen: set[tuple[str, str]] = set()
    left = [(one, "") for one in asked]
    while left:
        text, extra = left.pop()
        one = Requirement(text)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *sorted(one.extras)):
            if (one.name, wanted) not in seen:
                seen.add((one.name, wanted))
                found = metadata.distribution(one.name)
                left += [(other, wanted) for other in found.requires or []]
                yield found


def environment(folder: Path, wheel: Path) -> Path:
    """An environment with a wheel and links to what it needs, and with nothing else."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for found in needed(requirements(wheel)):
        tops = {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    python = folder / "bin" / "python"
    install(python, wheel)
    checked(sys.executable, "-m", "pip", "--python", python, "check")
    return python


def install(python: Path, wheel: Path) -> None:
    """Install a wheel, and nothing that it needs."""
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-compile")
    checked(*pip, "--no-index", "--no-deps", wheel)


def left_out(folder: str, names: list[str]) -> set[str]:
    """Names in a folder of the repository that a clean copy has not."""
    top = AT_THE_TOP if Path(folder) == ROOT else set()
    return top | {name for name in names if any(fnmatch(name, one) for one in ANYWHERE)}


def compare_contents(sdist: Path, wheels: Iterable[Path]) -> None:
    """End unless the source distribution and the wheels have every file of the package."""
    package = {path for path in (ROOT / "src" / "layerwise").rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT / "src").as_posix() for path in package}
    expected = {name for name in expected if "__pycache__" not in name}
    expected -= {(WEIGHTS / "pyproject.toml").relative_to("src").as_posix()}
    names = [name for wheel in wheels for name in ZipFile(wheel).namelist()]
    packed = [name for name in names if ".dist-info/" not in name]
    if sorted(packed) != sorted(expected):
        wrong = sorted(expected.symmetric_difference(packed)) or "some twice"
        sys.exit(f"The wheels have not each file of the package once: {wrong}.")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if missing := {f"src/{name}" for name in expected} - held:
        sys.exit(f"The source distribution lacks {sorted(missing)}.")


def use(python: Path, folder: Path, organisms: Path) -> None:
    """End unless the installed wheel profiles an organism, and names the wheel that has others."""
    layerwise = python.parent / "layerwise"
    offline = partial(
        checked, cwd=folder, HF_HUB_OFFLINE=1, LAYERWISE_CACHE=folder / "cache", OMP_NUM_THREADS=1
    )
    where = "import layerwise; print(layerwise.__version__, layerwise.__file__)"
    version, file = offline(python, "-c", where).split()
    assert Path(file).is_relative_to(python.parents[1]), file
    said = offline(
        layerwise, "profile", "organism-decoder", "--task", "organism-lookup", "--protocol",
        "generate", "--limit", 20, "--pairs", 2, "--out", "run",
    )  # fmt: skip
    assert "Retrieval needs layers 2 and 3." in said, said
    assert (folder / "run" / "report.html").stat().st_size > 10_000
    for state in ("not here; pip install 'layerwise[organisms]'", "available"):
        listed = offline(layerwise, "models").splitlines()
        (line,) = (line for line in listed if line.startswith("organism-decoder-1: "))
        assert line.endswith(f"({state})"), line
        install(python, organisms)
    print(f"layerwise {version} from its wheel profiled an organism.")


def main(out: Path) -> None:
    """Build all, and use the wheels."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy, tools, built = (folder / name for name in ("copy", "tools", "built"))
        shutil.copytree(ROOT, copy, ignore=left_out)
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile")
        subprocess.run([*pip, "--target", tools, "setuptools>=77"], check=True)
        built.mkdir()
        sdist = build("sdist", copy, built, tools)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "unpacked", filter="data")
        (unpacked,) = (folder / "unpacked").iterdir()
        wheel = build("wheel", unpacked, built, tools)
        organisms = build("wheel", unpacked / WEIGHTS, built, tools)
        compare_contents(sdist, (wheel, organisms))
        assert wheel.stat().st_size < LARGEST, wheel.stat().st_size
        (folder / "elsewhere").mkdir()
        use(environment(folder / "environment", wheel), folder / "elsewhere", organisms)
        for file in built.iterdir():
            shutil.copy(file, out)
            print(f"{out / file.name}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or ["dist"]))

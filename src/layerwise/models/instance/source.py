"""The files that a model is made of, and what is known of them before they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .loaded import SourceKind


@dataclass(frozen=True)
class Source:
    """Place of a model's files."""

    name: str  # the name it was asked for by
    kind: SourceKind  # what that name was
    folder: Path  # a local folder in hub format
    # SHA-256 of the GGUF file that was converted to that folder, or over adapter and base that were
    # merged there; otherwise empty.
    file_hash: str = ""
    conversion_hash: str = ""  # SHA-256 over the files of the conversion; otherwise empty
    # Which hashes of the files were compared with what.
    verified: str = "nothing tells which files are the right ones"
    adapter: str = ""  # what was merged into which base, in a few words; otherwise empty
    gguf: str = ""  # name of the GGUF file without its ending; otherwise empty

    @property
    def is_trusted(self) -> bool:
        """True if its files are known by pinned hashes."""
        return self.kind == "bundled"

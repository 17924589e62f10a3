"""A job that goes to another process without its models: names go, weights never.

What an analysis is planned from are frozen values that hold a model here and there. In place of
each model, its tokenizer and what was encoded with it stands a number, and whoever reads the job
has models of his own under these numbers.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import Model

from .encoding import EncodingCache
from .executors import LOCAL, Executor
from .progress import Meter


class _Packer(pickle.Pickler):
    """Pickles a job and collects the models that it refers to."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.models: list[Model] = []
        self._tokenizers: list[Any] = []

    def persistent_id(self, obj: Any) -> tuple[str, Any] | None:
        if isinstance(obj, Model):
            return "model", self._number(obj)
        if isinstance(obj, EncodingCache):
            return "built", obj.digests
        if isinstance(obj, Executor):
            return "executor", 0
        if isinstance(obj, Meter):
            return "meter", 0
        known = (number for number, one in enumerate(self._tokenizers) if one is obj)
        return next((("tokenizer", number) for number in known), None)

    def _number(self, model: Model) -> int:
        known = (number for number, one in enumerate(self.models) if one is model)
        if (number := next(known, None)) is not None:
            return number
        self.models.append(model)
        self._tokenizers.append(original_tokenizer(model))
        return len(self.models) - 1


class _Unpacker(pickle.Unpickler):
    """Unpickles a job with models of this process."""

    def __init__(self, file: io.BytesIO, models: Sequence[Model], built: EncodingCache) -> None:
        super().__init__(file)
        self._models, self._built = models, built

    def persistent_load(self, pid: tuple[str, Any]) -> Any:
        kind, number = pid
        if kind == "built":
            self._built.expect(number)
            return self._built
        if kind == "model":
            return self._models[number]
        if kind == "tokenizer":
            return original_tokenizer(self._models[number])
        return {"executor": LOCAL, "meter": Meter()}[kind]


def pack(job: Any) -> tuple[bytes, list[Model]]:
    """A job as bytes, and the models that are to be put in again, in their order."""
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(job)
    return file.getvalue(), packer.models


def unpack(content: bytes, models: Sequence[Model], built: EncodingCache) -> Any:
    """Unpack a job; the sending process is trusted."""
    return _Unpacker(io.BytesIO(content), models, built).load()


def table_to_bytes(table: pd.DataFrame) -> bytes:
    """A table in Arrow's format for streams; the index is not kept."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema) as writer:
        writer.write_table(arrow)
    return sink.getvalue().to_pybytes()


def table_from_bytes(content: bytes) -> pd.DataFrame:
    """A table of ``table_to_bytes``."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all().to_pandas()

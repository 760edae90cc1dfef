"""The run store: what was measured, on disk, so that nothing is measured twice. It does not know what it stores.

A run is a folder named by a hash of all that its numbers depend on; what was measured on one item (an image, a prompt)
is one Parquet file of records. A file belongs to its run and is whole, or it is set aside: it names its run inside, and
its content's hash in its name. It appears by being renamed when complete, so whatever kills the process, the store
holds whole files only.

Many items may lie in one packed file: that is how measurements are shipped with the project (`shipped`) and brought
from other machines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from elbo_core.errors import StoreError
from elbo_core.experiments.keys import key_text, short_hash
from elbo_core.paths import MEASURED, RUNS, replace_file

log = logging.getLogger(__name__)
SCHEMA = 2
"""Raised when a change of the code alters what is measured; part of every key."""
RUN = b"elbo_core.run"
FILE_NAME = re.compile(r"((?P<index>\d{6,})\.[0-9a-f]{8}|packed)\.(?P<content>[0-9a-f]{16})\.parquet")
PACKED = "packed.{}.parquet"


class Store:
    """The files of one run.

    key: by name, all that the numbers of the run depend on, but for the method of each record. "model" and "dataset"
        also name the folder.
    columns: of the records; among them "index" and "content" (position of the item, and a hash of all that it is) and
        "method" (the hash of a row's key).
    shipped: a folder with a folder for each run, of packed files that are read beside those in `root`; by default the
        project's own for its own store, none for others.

    Nothing is written before the first `add`, so that a finished store can be read where it cannot be written.
    """

    def __init__(self, key: Mapping[str, object], columns: pa.Schema, root: Path = RUNS, shipped: Path | None = None):
        self.key = {"schema": SCHEMA, **key}
        self.columns = columns
        self.run = short_hash(key_text(self.key))
        plain = (re.sub(r"[^\w.-]", "_", str(key[part]).rsplit("/", 1)[-1]) for part in ("model", "dataset"))
        self.folder = root / "-".join([*plain, self.run[:12]])
        shipped = shipped or (MEASURED if root == RUNS else None)
        self.shipped = shipped / self.folder.name if shipped else None
        self._sound: dict[str, tuple[int, int]] = {}

    def measured(self, contents: Sequence[str], indices: Collection[int] | None = None) -> dict[int, set[str]]:
        """By position, the methods that have been measured on items of these contents; of all, or of those at `indices`
        only, which reads their files alone.

        Raises:
            StoreError: a file cannot be read at the moment.
        """
        wanted = None if indices is None else ds.field("index").isin(pa.array(indices, pa.int32()))
        found_records = _of(contents, self._scan(["index", "content", "method"], wanted, indices))
        triples = found_records.group_by(["index", "method"]).aggregate([])
        found: dict[int, set[str]] = {}
        for index, method in zip(triples["index"].to_pylist(), triples["method"].to_pylist(), strict=True):
            found.setdefault(index, set()).add(method)
        return found

    def read(self, methods: Collection[str], contents: Sequence[str]) -> pa.Table:
        """The records of `methods` on items of these contents, in no particular order.

        Raises:
            StoreError: a file cannot be read at the moment.
        """
        return _of(contents, self._scan(self.columns.names, ds.field("method").isin(list(methods))))

    def add(self, index: int, records: list[dict]) -> None:
        """Keep the records of some methods on one item, all or none.

        Raises:
            StoreError: the disk is full or cannot be written; what was stored before stays usable.
        """
        table = pa.Table.from_pylist(records, self.columns.with_metadata({RUN: self.run}))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        methods = short_hash("".join(sorted({record["method"] for record in records})), 8)
        try:
            self._prepare()
            replace_file(self.folder / f"{index:06d}.{methods}.{_digest(content)}.parquet", content)
        except OSError as error:
            raise StoreError(f"item {index} could not be stored in {self.folder}: {error}") from error

    def check_writable(self) -> None:
        """Make the folder, with a description of the run in it.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._prepare()
        except OSError as error:
            raise StoreError(f"the run store {self.folder} cannot be written: {error}; choose another place") from error

    def _prepare(self) -> None:
        description = self.folder / "run.json"
        if not description.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(description, (json.dumps(self.key, indent=2, sort_keys=True) + "\n").encode())

    def pack(self, folder: Path, records: pa.Table | None = None) -> Path | None:
        """Write records, all of the run by default, to one file in `folder`; None if there is none.

        Raises:
            OSError: it cannot be written.
        """
        table = self._scan(self.columns.names) if records is None else records
        if not len(table):
            return None
        table = table.sort_by([("method", "ascending"), ("index", "ascending")])
        content = packed(table.replace_schema_metadata({RUN: self.run}))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / PACKED.format(_digest(content))
        replace_file(path, content)
        return path

    def _scan(
        self, names: Iterable[str], wanted: ds.Expression | None = None, indices: Collection[int] | None = None
    ) -> pa.Table:
        files = [str(path) for path in self._sound_files(indices)]
        dataset = ds.dataset(files, schema=self.columns, format="parquet")
        return dataset.to_table(columns=list(names), filter=wanted)

    def _sound_files(self, indices: Collection[int] | None = None) -> list[Path]:
        """The files that belong to this run and are whole, of all items or of some; the others are set aside."""
        return [path for path in self._files(indices) if self._is_sound(path)]

    def _files(self, indices: Collection[int] | None) -> list[Path]:
        if indices is None:
            found = sorted(self.folder.glob("*.parquet"))
        else:
            found = [path for index in indices for path in sorted(self.folder.glob(f"{index:06d}.*.parquet"))]
            found += sorted(self.folder.glob("packed.*.parquet"))
        return found + (sorted(self.shipped.glob("*.parquet")) if self.shipped else [])

    def _is_sound(self, path: Path) -> bool:
        """Whether a file is part of the run; one that is damaged or foreign is set aside.

        Raises:
            StoreError: it cannot be read at the moment, or it was shipped damaged.
        """
        try:
            stamp = (path.stat().st_size, path.stat().st_mtime_ns)
            if self._sound.get(str(path)) != stamp:
                self._check(path)
                self._sound[str(path)] = stamp
        except FileNotFoundError:
            return False  # another process has set it aside
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        except (ValueError, pa.ArrowException) as error:
            if path.parent == self.shipped:
                raise StoreError(
                    f"the shipped {path} is damaged ({error}); get it anew: git checkout {path}"
                ) from error
            _set_aside(path, error)
            return False
        return True

    def _check(self, path: Path) -> None:
        name, content = FILE_NAME.fullmatch(path.name), path.read_bytes()
        if name is None or name["content"] != _digest(content):
            raise ValueError("its content is not what its name says")
        schema = pq.read_schema(pa.BufferReader(content))
        if (schema.metadata or {}).get(RUN) != self.run.encode() or not schema.equals(self.columns):
            raise ValueError("it belongs to another run")


def _of(contents: Sequence[str], table: pa.Table) -> pa.Table:
    """The records of items that are still what they were when they were measured."""
    expected = dict(enumerate(contents))
    pairs = zip(table["index"].to_pylist(), table["content"].to_pylist(), strict=True)
    return table.filter(pa.array([expected.get(index) == content for index, content in pairs], pa.bool_()))


def packed(table: pa.Table) -> bytes:
    """A table as one Parquet file, one row group a method, so that a reader decodes only what it asks for.

    Numbers in lists are split into streams of bytes first: the high ones hardly change, which saves a quarter.
    """
    lists = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in lists}
    others = [name for name in table.column_names if name not in lists]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, compression="brotli", compression_level=11, use_dictionary=others, column_encoding=split
    ) as writer:
        for method in table["method"].unique():
            writer.write_table(table.filter(pc.equal(table["method"], method)))
    return sink.getvalue().to_pybytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _set_aside(path: Path, reason: Exception) -> None:
    """Out of the way, so that what it held is measured again; kept, so that a person can look at it."""
    log.warning("%s is set aside and measured again: %s", path, reason)
    try:
        path.replace(path.with_name(f"{path.name}.broken"))
    except OSError:
        log.warning("%s could not be renamed; it is left out", path)

"""The run store: what was measured, on disk, one Parquet file per image, so that nothing is measured twice.

A run is a folder named by a hash of all that its numbers depend on. A file is written under another name first and
renamed when complete: whatever kills the process, the store holds whole images only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from elbo_core.errors import StoreError
from elbo_core.experiments.rows import Row
from elbo_core.methods.observe import Plan
from elbo_core.metrics import BINS, Counts, Stack
from elbo_core.paths import DATA

SCHEMA = 1
RUNS = DATA / "runs"
COLUMNS = pa.schema(
    [
        ("image", pa.string()),
        ("index", pa.int32()),
        ("method", pa.string()),  # the definition of the row, not its name
        ("class", pa.string()),
        ("label", pa.int32()),
        ("area", pa.int64()),  # true pixels
        ("visible", pa.float32()),  # share of the class's pixels that nothing hides, NaN where unknown
        ("score", pa.float32()),  # alignment score, NaN for the background and for classes that were not asked
        ("won", pa.list_(pa.int32(), BINS)),
        ("right", pa.list_(pa.int32(), BINS)),  # of the background: its pixels by their winning score
        ("losses", pa.list_(pa.float32())),  # epsilon-MSE at each of the row's timesteps
        ("seconds_observed", pa.float32()),
        ("seconds_read", pa.float32()),
    ]
)


@dataclass(frozen=True)
class RunKey:
    """All that the numbers of a run depend on, its rows and the code's schema aside."""

    model: str
    weights: str
    dataset: str
    split: str
    content: str
    plan: Plan

    @property
    def folder(self) -> str:
        content = json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)
        return f"{self.model.rsplit('/', 1)[-1]}-{self.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


class RunStore:
    """The files of one run.

    Raises:
        StoreError: the folder cannot be written, or another version of the code wrote the store.
    """

    def __init__(self, key: RunKey, root: Path = RUNS):
        self.key = key
        self.folder = root / key.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _check_schema(root / "schema")
            self._write("run.json", json.dumps({"schema": SCHEMA, **asdict(key)}, indent=2).encode())
        except OSError as error:
            raise StoreError(
                f"the run store {root} cannot be written: {error}; free space or choose another"
            ) from error

    def missing(self, index: int, rows: Iterable[Row]) -> list[Row]:
        """The rows that have not been measured on image `index`, those of one definition once."""
        measured = set()
        for path in self.folder.glob(f"{index:06d}.*.parquet"):
            measured |= set(pq.read_table(path, columns=["method"])["method"].to_pylist())
        distinct = {row.definition: row for row in rows}
        return [row for definition, row in distinct.items() if definition not in measured]

    def add(self, index: int, records: list[dict]) -> None:
        """Keep the records of some rows of one image, all or none.

        Raises:
            StoreError: the disk is full or cannot be written; what was stored before stays usable.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records, COLUMNS), sink, compression="zstd")
        methods = "".join(sorted({record["method"] for record in records}))
        name = f"{index:06d}.{hashlib.sha256(methods.encode()).hexdigest()[:8]}.parquet"
        try:
            self._write(name, sink.getvalue())
        except OSError as error:
            raise StoreError(f"image {index} could not be stored in {self.folder}: {error}") from error

    def _write(self, name: str, content: bytes) -> None:
        partial = self.folder / f".{name}.{os.getpid()}.partial"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / name)
        finally:
            partial.unlink(missing_ok=True)

    def read(self, rows: Iterable[Row], images: int) -> pd.DataFrame:
        """The records of `rows` on the first `images` images, with the row's name in the column `row`.

        Raises:
            StoreError: something has not been measured yet.
        """
        rows = list(rows)
        files = [path for path in sorted(self.folder.glob("*.parquet")) if int(path.name[:6]) < images]
        if not files:
            raise StoreError(f"{self.folder} holds no images; run the measurement first")
        wanted = [("method", "in", {row.definition for row in rows})]
        frame = pa.concat_tables([pq.read_table(path, filters=wanted) for path in files]).to_pandas()
        frame = frame.drop_duplicates(["index", "method", "label"])
        parts = [frame[frame.method == row.definition].assign(row=row.name) for row in rows]
        for row, part in zip(rows, parts, strict=True):
            if part["index"].nunique() < images:
                raise StoreError(f"row {row.name!r} is measured on {part['index'].nunique()} of {images} images only")
        return pd.concat(parts).sort_values(["index", "label"], kind="stable").reset_index(drop=True)


def _check_schema(marker: Path) -> None:
    if not marker.exists():
        partial = marker.with_name(f".schema.{os.getpid()}")
        partial.write_text(str(SCHEMA))
        partial.replace(marker)
    found = marker.read_text().strip()
    if found != str(SCHEMA):
        raise StoreError(
            f"{marker.parent} was written by schema {found or '?'}, this code reads schema {SCHEMA}; "
            "move it away or delete it (`rm -r data/runs`) and measure again"
        )


def to_counts(frame: pd.DataFrame, n_labels: int) -> dict[str, Stack]:
    """The pixel counts of each row in `frame` (see `RunStore.read`), stacked over images in their order."""
    return {name: _stack(part, n_labels) for name, part in frame.groupby("row", sort=False)}


def _stack(part: pd.DataFrame, n_labels: int) -> Stack:
    part = part.sort_values(["index", "label"])
    image = part["index"].rank(method="dense").astype(int).to_numpy() - 1
    won, right = (np.stack(part[name]).astype(np.uint32) for name in ("won", "right"))
    return Stack(int(image.max()) + 1, n_labels, image, part.label.to_numpy(), won, right, part.area.to_numpy())


def to_records(
    counts: Counts, scene_id: str, index: int, method: str, candidates: Mapping[int, dict], names: tuple[str, ...]
) -> list[dict]:
    """One record per label of an image: background, candidates, and whatever else the truth holds.

    candidates: by label, what is known of a candidate class (score, visible, losses).
    """
    labels = sorted({0, *candidates, *np.flatnonzero(counts.true).tolist()})
    unknown = {"score": float("nan"), "visible": float("nan"), "losses": []}
    return [
        {
            "image": scene_id,
            "index": index,
            "method": method,
            "class": names[label - 1] if label else "background",
            "label": label,
            "area": int(counts.true[label]),
            "won": counts.won[label].tolist(),
            "right": (counts.right[label] if label else counts.background).tolist(),
            **candidates.get(label, unknown),
        }
        for label in labels
    ]

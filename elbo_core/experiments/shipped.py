"""The measurements that are shipped with the project: `data/measured`, one folder a run, and a manifest.

    python -m elbo_core.experiments.shipped toy            ship what the run stores hold of a profile
    python -m elbo_core.experiments.shipped toy --check    whether what is shipped is whole and fits

What is shipped is read by the stores themselves (`Store`), under the same keys: a change of weights, data or method
makes another key, and then nothing of it is read. `uncovered` says so, and why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elbo_core.datasets.known import write_hashes
from elbo_core.datasets.toy import TOY_SETS, scene_hash, toy_dataset
from elbo_core.errors import StoreError
from elbo_core.experiments.machine import processor
from elbo_core.experiments.profiles import PROFILES, get_profile
from elbo_core.experiments.store import Store
from elbo_core.experiments.work import Work, all_works, lacking, title
from elbo_core.paths import DATA, ROOT, RUNS, replace_file

HOME = DATA / "measured"
LIMIT = 40 * 10**6
"""Bytes that all measurements together may take: a clone must stay light."""
MEASURING_ROOMS = ("diffusion", "methods", "metrics.py", "heatmaps.py", "toy", "datasets", "experiments", "generation")
SCENES = {"test": 256, "dev": 64}
"""So many scenes of each toy set and split are named without being drawn (`datasets.known`)."""


def code_hash() -> str:
    """A hash of the text of all code that measures."""
    digest = hashlib.sha256()
    for place in MEASURING_ROOMS:
        path = ROOT / "elbo_core" / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_text(encoding="utf-8").encode())
    return digest.hexdigest()[:16]


def ship(works: Sequence[Work], root: Path = RUNS, home: Path = HOME) -> dict:
    """Write all records of some works, and no others, to `home`, with a manifest; returns that.

    Raises:
        StoreError: a work is not whole.
    """
    for work in works:
        missing = lacking(work, work.store(root))
        if missing:
            raise StoreError(f"{title(work)} lacks {len(missing)} of {len(work.contents())} items; measure them first")
    fresh = home.with_name(f".{home.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    runs = [_ship_run(members, root, fresh) for members in _by_run(works, root).values()]
    for folder in home.iterdir() if home.is_dir() else ():
        if folder.is_dir() and (folder / "run.json").is_file():
            shutil.rmtree(folder)
    home.mkdir(parents=True, exist_ok=True)
    for folder in sorted(fresh.iterdir()):
        folder.rename(home / folder.name)
    fresh.rmdir()
    manifest = {
        "date": date.today().isoformat(), "machine": processor(), "code": code_hash(),
        "works": [_of_work(work, root) for work in works], "runs": runs,
    }  # fmt: skip
    replace_file(home / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def _by_run(works: Iterable[Work], root: Path) -> dict[str, list[Work]]:
    """Works that share a store, together."""
    found: dict[str, list[Work]] = {}
    for work in works:
        found.setdefault(work.store(root).folder.name, []).append(work)
    return found


def _ship_run(works: Sequence[Work], root: Path, home: Path) -> dict:
    """Pack one run; what the manifest says of it."""
    store = works[0].store(root)
    owned = _by_owner(works)
    records = pa.concat_tables([store.read(methods, work.contents()) for work, methods in owned.items()])
    path = store.pack(home / store.folder.name, once_told(distinct(records)))
    assert path is not None, "a work has items"
    replace_file(path.with_name("run.json"), (json.dumps(store.key, indent=2, sort_keys=True) + "\n").encode())
    return {
        "folder": store.folder.name, "items": len(records["index"].unique()), "records": len(records),
        "bytes": path.stat().st_size, "seconds": round(_seconds(records)),
    }  # fmt: skip


def naming(records: pa.Table) -> list[str]:
    """The columns that tell records apart: texts and whole numbers."""
    kinds = zip(records.column_names, records.schema.types, strict=True)
    return [name for name, kind in kinds if pa.types.is_string(kind) or pa.types.is_integer(kind)]


def distinct(records: pa.Table) -> pa.Table:
    """Each record once, though two processes may have measured it, or it is shipped and lies in the store, too."""
    keys = records.select([name for name in naming(records) if name != "process"]).to_pandas()
    return records.filter(pa.array(~keys.duplicated().to_numpy(), pa.bool_()))


def once_told(records: pa.Table) -> pa.Table:
    """Records of a segmentation with the losses of each class in one of its picture's rows only: many rows are read
    from the same ones. Other records as they are."""
    if not {"won", "losses"} <= set(records.column_names):
        return records
    order = np.argsort(-pc.list_value_length(records["losses"]).to_numpy(), kind="stable")  # the longest is told
    repeated = records.select(["index", "label"]).to_pandas().iloc[order].duplicated().sort_index()
    losses = [[] if told else own for told, own in zip(repeated, records["losses"].to_pylist(), strict=True)]
    field = records.schema.field("losses")
    return records.set_column(records.schema.get_field_index("losses"), field, pa.array(losses, field.type))


def _by_owner(works: Sequence[Work]) -> dict[Work, list[str]]:
    """For each work of a run the methods that it ships: those of several, with the one that has the most items."""
    owners: dict[str, Work] = {}
    for work in sorted(works, key=lambda work: len(work.contents())):
        owners |= dict.fromkeys(work.methods(), work)
    return {work: [name for name, owner in owners.items() if owner == work] for work in owners.values()}


def _seconds(records: pa.Table) -> float:
    """What measuring took: of each item, once for each of its sittings."""
    named = [field for field in records.schema if field.name.startswith("seconds")]
    names = [field.name for field in named if pa.types.is_floating(field.type)]
    sittings = records.select(["index", *names]).group_by(["index", *names]).aggregate([])
    return sum(sum(filter(None, sittings[name].to_pylist())) for name in names)


def _of_work(work: Work, root: Path) -> dict:
    key = work.store(root).key
    return {
        "title": title(work), "run": work.store(root).folder.name, "weights": key.get("weights"),
        "contents": _digest(work.contents()), "methods": _digest(sorted(work.methods())),
        "items": len(work.contents()),
    }  # fmt: skip


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def read_manifest(home: Path = HOME) -> dict:
    """What is shipped; nothing, if nothing is.

    Raises:
        StoreError: it is damaged.
    """
    path = home / "manifest.json"
    if not path.is_file():
        return {"works": [], "runs": [], "code": ""}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); get it anew: git checkout {path}") from error


def shipped_titles(home: Path = HOME) -> set[str]:
    """The titles of all works of which something was shipped, be it as it is now or not."""
    return {entry["title"] for entry in read_manifest(home)["works"]}


@dataclass(frozen=True)
class Uncovered:
    """A work that cannot be read from what is shipped: so many items are measured anew, and why."""

    work: Work
    items: int
    reason: str

    def __str__(self) -> str:
        return f"{title(self.work)}: {self.items} items are not shipped as they are now: {self.reason}"


def uncovered(todo: Mapping[Work, Sequence[int]], home: Path = HOME) -> list[Uncovered]:
    """Of works that lack something, why what is shipped does not help."""
    known = {entry["title"]: entry for entry in read_manifest(home)["works"]}
    return [Uncovered(work, len(items), _reason(work, known.get(title(work)))) for work, items in todo.items()]


def _reason(work: Work, entry: Mapping | None) -> str:
    if entry is None:
        return "nothing of it was shipped"
    store = work.store()
    if entry["weights"] != store.key.get("weights"):
        return f"the weights of {work.model} have changed ({entry['weights']}, now {store.key.get('weights')})"
    if entry["run"] != store.folder.name:
        return "the data set's classes or the schema of the store have changed"
    if entry["methods"] != _digest(sorted(work.methods())):
        return "its methods have changed"
    if entry["contents"] != _digest(work.contents()):
        return f"its items have changed, in their content or number ({entry['items']}, now {len(work.contents())})"
    return "it is not whole"


def problems(works: Sequence[Work], home: Path = HOME) -> list[str]:
    """What is wrong with what is shipped: nothing, if it is whole, small and fits the present weights and code."""
    found = []
    for work in works:
        missing = lacking(work, shipped_alone(work, home))
        if missing:
            found.append(str(uncovered({work: missing}, home)[0]))
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    if size > LIMIT:
        found.append(f"{home} takes {size / 1e6:.1f} MB; the limit is {LIMIT / 1e6:.0f}")
    return found


def shipped_alone(work: Work, home: Path = HOME) -> Store:
    """A work's store as far as it is shipped, without what was measured on this machine."""
    store = work.store(home / "nothing is measured here")
    key = {name: value for name, value in store.key.items() if name != "schema"}
    return Store(key, store.columns, store.folder.parent, home)


def write_scene_hashes() -> None:
    """Name the first scenes of all toy sets anew (`datasets.known`): after a change of the code that makes them."""
    sets = {f"{name}/{split}": toy_dataset(name, split, n) for name in TOY_SETS for split, n in SCENES.items()}
    write_hashes({place: [scene_hash(scene) for scene in scenes] for place, scenes in sets.items()})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--scenes", action="store_true", help="name the toy scenes anew, no more")
    options = parser.parse_args(arguments)
    if options.scenes:
        write_scene_hashes()
        return 0
    works = all_works(get_profile(options.profile))
    if not options.check:
        manifest = ship(works)
        size = sum(run["bytes"] for run in manifest["runs"])
        print(f"shipped {len(works)} works in {len(manifest['runs'])} runs, {size / 1e6:.1f} MB")
    found = problems(works)
    print("\n".join(found) or "what is shipped is whole and fits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

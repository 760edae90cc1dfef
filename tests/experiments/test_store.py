"""The store's promises about files, whatever happens to them; it does not know what it stores."""

from __future__ import annotations

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elbo_core.errors import StoreError
from elbo_core.experiments.store import Store

COLUMNS = pa.schema([("index", pa.int32()), ("content", pa.string()), ("method", pa.string()), ("value", pa.float64())])
CONTENTS = [f"scene {k}" for k in range(10)]
KEY = {"model": "some/model", "dataset": "a set", "weights": "w1"}


def records(index: int, *methods: str) -> list[dict]:
    common = {"index": index, "content": CONTENTS[index]}
    return [common | {"method": method, "value": index + len(method) / 10} for method in methods]


@pytest.fixture
def store(tmp_path) -> Store:
    filled = Store(KEY, COLUMNS, tmp_path)
    filled.add(0, records(0, "a", "bb"))
    filled.add(1, records(1, "a"))
    filled.add(1, records(1, "bb"))
    return filled


def values(store: Store, methods=("a", "bb"), contents=CONTENTS) -> list[tuple]:
    table = store.read(methods, contents)
    return sorted(zip(*(table[name].to_pylist() for name in ("index", "method", "value")), strict=True))


WHOLE = [(0, "a", 0.1), (0, "bb", 0.2), (1, "a", 1.1), (1, "bb", 1.2)]


def test_what_was_added_is_there(store):
    assert values(store) == WHOLE
    assert store.measured(CONTENTS) == {0: {"a", "bb"}, 1: {"a", "bb"}}
    assert values(store, ["bb"], CONTENTS[:1]) == WHOLE[1:2]


def test_what_was_measured_on_another_content_does_not_count(store):
    """A picture that has changed is measured anew; the others are not."""
    changed = ["another scene 0", *CONTENTS[1:]]
    assert values(store, contents=changed) == WHOLE[2:]
    assert set(store.measured(changed)) == {1}


def test_a_new_store_is_empty_and_writes_nothing(tmp_path):
    empty = Store(KEY, COLUMNS, tmp_path / "new")
    assert (values(empty), empty.measured(CONTENTS)) == ([], {})
    assert not (tmp_path / "new").exists()


def test_every_part_of_the_key_makes_another_run(store, tmp_path):
    others = [Store(KEY | change, COLUMNS, tmp_path) for change in ({"weights": "w2"}, {"model": "m"}, {"seed": 1})]
    assert len({store.folder, *(other.folder for other in others)}) == 4
    assert all(values(other) == [] for other in others)
    assert (store.folder / "run.json").read_text().count("w1") == 1


def files(store: Store):
    return sorted(store.folder.glob("*.parquet"))


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path) -> None:
    path.write_bytes(b"")


def other_content(path) -> None:
    path.write_text("not a table")


@pytest.mark.parametrize("damage", [flip, cut, empty, other_content])
def test_damaged_files_are_set_aside_and_named(store, damage, caplog):
    damage(files(store)[0])
    damaged = files(store)[0].name
    assert values(store) == WHOLE[2:]
    assert damaged in caplog.text
    assert (store.folder / f"{damaged}.broken").exists()
    store.add(0, records(0, "a", "bb"))
    assert values(store) == WHOLE, "measured again"


@pytest.mark.parametrize("name", ["0.parquet", "000000.aaaaaaaa.bbbbbbbbbbbbbbbb.parquet", "x.parquet"])
def test_foreign_files_do_not_count(store, name, caplog):
    shutil.copy(files(store)[0], store.folder / name)
    assert values(store) == WHOLE
    assert name in caplog.text


def test_a_file_of_another_run_does_not_count(store, tmp_path):
    other = Store(KEY | {"weights": "w2"}, COLUMNS, tmp_path)
    other.add(7, records(7, "a"))
    shutil.copy(files(other)[0], store.folder)
    assert values(store) == WHOLE


def test_a_file_with_other_columns_does_not_count(store, tmp_path):
    wider = Store(KEY, COLUMNS.append(pa.field("more", pa.int32())), tmp_path)
    assert values(wider) == []


def test_every_flipped_bit_is_seen(store):
    """Anywhere in a file: in its data, its footer, or its name of the run."""
    path = files(store)[0]
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        broken = bytearray(content)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        assert values(Store(KEY, COLUMNS, store.folder.parent)) == WHOLE[2:]
        path.with_name(f"{path.name}.broken").unlink()
    path.write_bytes(content)
    assert values(Store(KEY, COLUMNS, store.folder.parent)) == WHOLE


def test_a_finished_store_can_be_read_where_it_cannot_be_written(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "replace", "rename", "open"):
        monkeypatch.setattr(os, name, refuse)
    assert values(Store(KEY, COLUMNS, store.folder.parent)) == WHOLE


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(KEY, COLUMNS, tmp_path / "file").check_writable()
    with pytest.raises(StoreError, match="item 3 could not be stored"):
        Store(KEY, COLUMNS, tmp_path / "file").add(3, records(3, "a"))


def test_a_file_that_cannot_be_moved_is_left_out(store, monkeypatch):
    flip(files(store)[0])
    monkeypatch.setattr(type(store.folder), "replace", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    assert values(store) == WHOLE[2:]


def test_files_are_plain_parquet(store):
    table = pq.read_table(files(store)[0])
    assert table.schema.equals(COLUMNS)
    assert table.schema.metadata[b"elbo_core.run"].decode() == store.run

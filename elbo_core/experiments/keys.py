"""Keys that say in clear what a number depends on, so that two different things never share one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum

PLAIN = (str, int, float, bool, type(None))


def spell_out(value: object) -> object:
    """Settings as JSON, field by field: a dataclass with its module and name, sequences and mappings of such.

    A field with the metadata `key=False` is left out: no result depends on it. So is one with `key="unless empty"`
    that is empty, or with `key="unless default"` that has its default: what came later leaves the keys of what was
    measured before as they were.

    Raises:
        TypeError: something is not plain data. Functions and objects look alike when they differ, or differ when they
            are alike.
    """
    if isinstance(value, PLAIN) and not isinstance(value, Enum):
        return value
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: spell_out(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [spell_out(part) for part in value]
    kind = type(value)
    nameless = "<locals>" in kind.__qualname__ or kind.__module__ == "__main__"
    if not is_dataclass(value) or isinstance(value, type) or nameless:
        raise TypeError(
            f"{value!r} cannot be part of a key; write it as a frozen dataclass of a module, with fields of plain data"
        )
    settings = {field.name: getattr(value, field.name) for field in fields(value) if _counts(field, value)}
    return {"type": f"{kind.__module__}.{kind.__qualname__}", "fields": spell_out(settings)}


def _counts(field: Field, value: object) -> bool:
    rule, own = field.metadata.get("key", True), getattr(value, field.name)
    return {"unless empty": bool(own), "unless default": own != field.default}.get(rule, rule)


def key_text(value: object) -> str:
    """One line of JSON that spells `value` out.

    Raises:
        TypeError: see `spell_out`.
    """
    return json.dumps(spell_out(value), sort_keys=True, ensure_ascii=False)


def short_hash(text: str, length: int = 16) -> str:
    """The first hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]

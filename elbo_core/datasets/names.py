"""What the classes of the real data sets are called: in the released code's prompts, and in the sets themselves."""

from __future__ import annotations

import functools

import yaml

from elbo_core.paths import DATA

STYLES = ("prompted", "own")


@functools.cache
def class_names(name: str, style: str = "prompted") -> tuple[str, ...]:
    """The classes of a data set in label order, background aside: "prompted", as the released code words them
    ("plane", "people"), or the set's "own" ("aeroplane", "person").

    Raises:
        ValueError: unknown set or style.
    """
    prompted = yaml.safe_load((DATA / "paper" / "class_names.yaml").read_text(encoding="utf-8"))
    if name not in prompted:
        raise ValueError(f"no class names of {name!r}; known: {', '.join(prompted)}")
    if style not in STYLES:
        raise ValueError(f"unknown naming {style!r}; known: {', '.join(STYLES)}")
    own = OWN.get(name, {}) if style == "own" else {}
    return tuple(own.get(label, label) for label in prompted[name])


OWN = {
    "voc": {
        "plane": "aeroplane",
        "buses": "bus",
        "table": "diningtable",
        "people": "person",
        "plant": "pottedplant",
        "monitor": "tvmonitor",
    },
    "context": {"airplane": "aeroplane", "plant": "pottedplant", "monitor": "tvmonitor"},
    "coco": {
        "motorbike": "motorcycle",
        "aeroplane": "airplane",
        "necktie": "tie",
        "sofa": "couch",
        "pottedplant": "potted plant",
        "diningtable": "dining table",
        "closestool": "toilet",
        "tvmonitor": "tv",
        "computer mouse": "mouse",
        "remote controller": "remote",
        "hand sink": "sink",
    },
}
"""The sets' own names where the released code says otherwise (its `metadata/*/info.yaml`)."""

"""What code calls briefly, in words for readers."""

from __future__ import annotations

import re

WORDS = {
    "off": "calibration off",
    "on": "calibration on",
    "relative": "on, relative error",
    "phrases": "on, whole phrases",
    "1 timesteps": "on, 1 timestep",
    "5 timesteps": "on, 5 timesteps",
    "best constant": "best constant score",
    "on over best constant": "on against the best constant",
    "epsilon": "noise error (released)",
    "velocity": "velocity error",
    "flow": "flow error",
    "elbo": "eq. 4 literally",
    "score": "score",
    "sample": "picture error",
    "miou": "mIoU",
    "miou_things": "mIoU without background",
    "precision": "precision",
    "f1": "F1",
    "lead_gain": "lead in mIoU",
    "released": "as released",
    "late layers": "late layers",
    "voc": "VOC",
    "context": "Context",
    "coco": "COCO",
    "ade20k": "ADE20K",
    "aep": "AEP",
    "area": "size",
    "visible": "visible share",
    "frequency": "frequency in training",
}
"""By the code's name."""
PATTERNS = (
    (re.compile(r"^(\w+)_gain$"), lambda found: f"gain in {label(found[1])}"),
    (re.compile(r"^constant (1/\d)$"), lambda found: f"constant score {found[1]}"),
    (re.compile(r"^gamma (1/\d)$"), lambda found: f"γ = {found[1]}"),
    (re.compile(r"^attention (\d+) (\w+)$"), lambda found: f"{found[1]} {found[2]} timestep{'s' * (found[1] != '1')}"),
    (re.compile(r"^10 (small|middle|large|random|even)$"), lambda found: f"10 {found[1]} timesteps"),
)
"""Names that follow a rule."""


def label(name: str) -> str:
    """The words for a row, metric, reading or data set of the paper; any other name stays as it is."""
    if name in WORDS:
        return WORDS[name]
    for pattern, words in PATTERNS:
        if found := pattern.match(name):
            return words(found)
    return name

"""Copy the outputs of executed notebooks into the committed ones.

`python -m elbo_core.reports.notebooks build/toy/00_start_here.ipynb ...`

papermill adds a cell and timings; neither belongs in the repository.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image

from elbo_core.paths import ROOT


def refresh(executed: Path, committed: Path) -> None:
    """Replace the outputs and execution counts of `committed` by those of the same cells in `executed`.

    Raises:
        ValueError: the executed notebook lacks a cell, so it was made from another version.
    """
    source, target = (nbformat.read(path, as_version=4) for path in (executed, committed))
    by_id = {cell.id: cell for cell in source.cells if "injected-parameters" not in cell.metadata.get("tags", [])}
    missing = [cell.id for cell in target.cells if cell.id not in by_id]
    if missing:
        raise ValueError(f"{executed} lacks the cells {missing} of {committed}; run `make notebooks` again")
    code = [cell for cell in target.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        cell.outputs = [] if _is_widget(cell) else [_clean(output, count) for output in _results(by_id[cell.id])]
    nbformat.write(target, committed)


def _is_widget(cell: nbformat.NotebookNode) -> bool:
    """Widgets do not live in a file; their cell is stored without output."""
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def _results(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Without warnings and progress bars."""
    kept = [output for output in cell.outputs if output.get("name") != "stderr"]
    return [output for output in kept if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})]


def _clean(output: nbformat.NotebookNode, count: int) -> nbformat.NotebookNode:
    if output.output_type == "execute_result":
        output.execution_count = count
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = _compress(output.data["image/png"])
    return output


def _compress(picture: str) -> str:
    """A base64 PNG with 256 colours: a third of the size, and readers load notebooks on every visit."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    packed = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        refresh(path, ROOT / "notebooks" / path.name)
        print(f"refreshed notebooks/{path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])

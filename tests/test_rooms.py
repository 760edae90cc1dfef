"""The house as docs/architecture.md draws it: data flows down through the rooms, an import points up, never down."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import elbo_core
from elbo_core.paths import ROOT

PACKAGE = ROOT / "elbo_core"
ORDER = [
    {"checks", "errors", "paths", "words"},
    {"captions", "images"},
    {"scene", "heatmaps"},
    {"plots"},
    {"diffusion"},
    {"methods"},
    {"segmentation", "metrics"},
    {"generation"},
    {"toy"},
    {"datasets"},
    {"training"},
    {"experiments"},
    {"explore"},
    {"reports"},
]
"""Rooms and flat modules from the top down; each imports from those above it and from its own room."""
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def room_of(module: str) -> str:
    """Of "elbo_core.methods.align" it is "methods"."""
    return module.split(".")[1]


def imported(path) -> set[str]:
    """The modules of this package that a file imports, also inside functions, but not for type checking only."""
    tree = ast.parse(path.read_text())
    typing_only = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    hidden = {id(inner) for node in typing_only for inner in ast.walk(node)}
    modules = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("elbo_core"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules |= {names[0]} if node.module != "elbo_core" else set(names)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.startswith("elbo_core.")}
    return modules


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_points_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imported(path):
        other = room_of(module)
        assert other == own or LEVEL[other] < LEVEL[own], f"{own} imports {module}, which lies below it"


def test_every_room_has_its_place():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    flat = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms | flat <= set(LEVEL)


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("statement", "unwanted"), [
    ("import elbo_core", ("torch", "numpy", "diffusers")),
    ("import elbo_core.captions", ("torch", "diffusers", "transformers")),
    ("import elbo_core.diffusion.registry", ("torch", "diffusers", "transformers")),
    ("from elbo_core.reports.tables import regenerate", ("diffusers", "transformers", "accelerate")),
    ("import elbo_core.reports.claims", ("diffusers", "transformers", "accelerate")),
])  # fmt: skip
def test_imports_are_quick(statement, unwanted):
    """What reads captions or results loads nothing that runs a model."""
    loaded = run(f"import sys; {statement}; print([m for m in {unwanted} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_the_package_hands_out_its_names():
    script = "import elbo_core; print(sorted(name for name in elbo_core.__all__ if getattr(elbo_core, name)))"
    assert run(script).strip() == str(sorted(["Plan", "Recipe", "Scene", "align", "load", "observe", "segment"]))
    with pytest.raises(AttributeError, match="has no attribute 'evaluate'; it has: Plan"):
        elbo_core.evaluate  # noqa: B018

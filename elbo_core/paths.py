"""Where things are, from the package's own place, so that nothing depends on the current directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
MODELS = DATA / "models"
FIGURES = ROOT / "figures"

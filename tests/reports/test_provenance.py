import hashlib
import json

import nbformat
import torch

from elbo_core.paths import MODELS
from elbo_core.reports import provenance


def test_it_names_weights_versions_and_times(tmp_path):
    notebook = nbformat.v4.new_notebook(metadata={"papermill": {"duration": 12.345}})
    nbformat.write(notebook, tmp_path / "10_table_x.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "20_by_hand.ipynb")
    provenance.main("smoke", str(tmp_path), str(tmp_path / "provenance.json"))
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert found["seconds"] == {"10_table_x": 12.3, "20_by_hand": None}
    assert torch.__version__.startswith(found["versions"]["torch"].partition("+")[0])
    assert found["profile"]["name"] == "smoke"
    weights = MODELS / "toy-sd15" / "unet" / "diffusion_pytorch_model.safetensors"
    assert found["weights_sha256"]["toy-sd15/unet/" + weights.name] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["machine"]["cores"] >= 1


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.provenance("smoke", tmp_path)["commit"] is None

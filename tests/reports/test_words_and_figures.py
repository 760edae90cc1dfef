"""Words, compact tables, example pictures and figures: what a reader sees of the numbers."""

from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from elbo_core.metrics import mask_ious
from elbo_core.plots import alt_text, describe
from elbo_core.reports.figures import column_title, draw_changes, draw_gains, draw_gains_by_model, draw_strengths
from elbo_core.reports.labels import label
from elbo_core.reports.ledgers import draw_ledger, ledger_table
from elbo_core.reports.notebooks import compress
from elbo_core.reports.styles import clear_of_zero, collapsed, compact, plain, span, tally
from elbo_core.reports.summary import COLUMNS

NAN = float("nan")


@pytest.fixture
def table() -> pd.DataFrame:
    """Two models, two sets, two readings; the gain of "on" is clear of zero on one of them."""
    lines = []
    for model in ("toy-sd15", "toy-sd35"):
        for dataset in ("toy-voc", "toy-coco"):
            for reading in ("released", "late layers"):
                gain = 2.0 if dataset == "toy-voc" else -3.0
                paper = 0.4 if reading == "released" else NAN
                lines.append([model, dataset, reading, "off", "miou", NAN, 30.0, 28.0, 32.0, 8])
                lines.append([model, dataset, reading, "on", "miou", NAN, 30.0 + gain, 28.0, 34.0, 8])
                lines.append([model, dataset, reading, "on", "miou_gain", paper, gain, gain - 1, gain + 1, 8])
                lines.append([model, dataset, reading, "gamma 1/2", "miou_gain", NAN, 0.1, -1.0, 1.0, 8])
    return pd.DataFrame(lines, columns=COLUMNS)


@pytest.mark.parametrize(("name", "words"), [
    ("on", "calibration on"), ("miou_gain", "gain in mIoU"), ("constant 1/3", "constant score 1/3"),
    ("gamma 1/5", "γ = 1/5"), ("attention 1 small", "1 small timestep"), ("attention 10 large", "10 large timesteps"),
    ("1 timesteps", "on, 1 timestep"), ("something else", "something else"),
])  # fmt: skip
def test_names_are_told_in_words(name, words):
    assert label(name) == words


def test_a_compact_table_says_what_is_clear_of_zero(table):
    html = compact(table).to_html()
    assert "+2.0 [+1.0, +3.0]" in html
    assert html.count("font-weight: bold") >= 1
    assert "nan" not in html.lower().replace("finance", "")
    assert "as released" in html
    with pytest.raises(ValueError, match="no 'f1_gain'"):
        compact(table, "f1_gain")
    with pytest.raises(ValueError, match="do not tell the numbers apart"):
        compact(table, lines=["reading"])


@pytest.mark.parametrize(("low", "high", "side"), [(0.1, 2, 1), (-2, -0.1, -1), (-1, 1, 0), (0, 1, 0)])
def test_clear_of_zero(low, high, side):
    assert clear_of_zero(low, high) == side


def test_counts_are_whole_and_nothing_is_nothing():
    html = plain(pd.DataFrame({"count": [7], "share": [0.25], "none": [NAN], "words": ["<b>"]})).to_html()
    assert ">7<" in html
    assert ">0.2<" in html
    assert "nan" not in html


def test_a_folded_table_and_sentences_in_numbers(table):
    assert "<details><summary>all &amp; more</summary>" in collapsed(table, "all & more").data
    assert tally(table) == "4 of 8 gain, 4 of them clear of zero; 4 lose, 4 clear of zero"
    assert span(table) == "-3.0 to +2.0 points"


def test_figures_say_what_was_found_and_what_they_show(table):
    figure = draw_gains(table, ["on"])
    assert figure.get_suptitle() == "Of 8 gains 4 are clear of zero, 4 are losses clear of zero, 0 are undecided"
    assert "calibration on, as released, -0.5" in alt_text(figure)
    by_model = draw_gains_by_model(table, ["on"])
    assert [tick.get_text() for tick in by_model.axes[0].get_yticklabels()] == ["toy-sd15", "toy-sd35"]
    strengths = draw_strengths(table[table.model == "toy-sd15"], ["gamma 1/2"])
    assert "the paper's optimum" in strengths.get_suptitle()
    changes = draw_changes(table[table.model == "toy-sd15"].drop_duplicates(["dataset", "row", "metric"]), ["on"],
                           {"miou_gain": "gain"}, "one title")  # fmt: skip
    assert alt_text(changes).startswith("one title")
    sizes = [text.get_fontsize() for figure in (by_model, strengths, changes) for text in figure.findobj(plt.Text)]
    assert min(sizes) >= 8
    plt.close("all")


def test_the_papers_set_is_named():
    assert column_title("toy-voc") == "toy-voc\n(for VOC)"
    assert column_title("voc") == "voc"


def test_a_figure_without_a_description_is_told_by_its_titles():
    figure, axis = plt.subplots()
    axis.set(title="one panel", xlabel="time")
    assert alt_text(figure) == "Panels: one panel. Axes: time"
    assert alt_text(describe(figure, "better")) == "better"
    plt.close(figure)


def test_mask_ious_against_a_count_by_hand():
    truth = np.array([[1, 1, 255], [0, 2, 2]])
    mask = np.array([[1, 0, 1], [1, 2, 0]])
    assert mask_ious(mask, truth, 3)[:2] == pytest.approx([100 / 3, 50])
    assert np.isnan(mask_ious(mask, truth, 3)[2])


def test_large_pictures_are_packed_without_new_colours():
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(300, 300, 3), dtype=np.uint8)
    noise[:8, :8] = (255, 0, 0)
    packed = io.BytesIO()
    Image.fromarray(noise).save(packed, "PNG")
    small = compress(base64.b64encode(packed.getvalue()).decode())
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB")).astype(int)
    assert np.abs(seen[2, 2] - (255, 0, 0)).max() < 40
    assert len(base64.b64decode(small)) < len(packed.getvalue())


def test_the_ledger_is_drawn_and_set():
    lines = [["small", "released", "m", "a claim", 1.2, 2.0, 1.0, 3.0, "more", "holds"],
             ["rare", "released", "m", "another", NAN, NAN, NAN, NAN, "more", "not tested"]]  # fmt: skip
    columns = ["id", "reading", "model", "claim", "paper", "ours", "low", "high", "rule", "verdict"]
    ledger = pd.DataFrame(lines, columns=columns)
    html = ledger_table(ledger).to_html()
    assert "+2.00 [+1.00, +3.00]" in html
    assert "nan" not in html
    assert draw_ledger(ledger).get_suptitle() == "Of 1 tests 1 hold, 0 do not hold, 0 are undecided"
    plt.close("all")

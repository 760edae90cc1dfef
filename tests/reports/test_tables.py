import math

import pandas as pd
import pytest

from elbo_core.experiments.records import Evaluation
from elbo_core.experiments.rows import rows_of
from elbo_core.methods.baselines import BASELINES
from elbo_core.reports.paper import beside_paper, paper_number, reported
from elbo_core.reports.summary import COLUMNS, tidy
from elbo_core.reports.tables import TABLES, pivot, regenerate, undefined, write_table


@pytest.fixture
def frame() -> pd.DataFrame:
    lines = [
        ("toy_a", "toy-voc", "released", "off", "miou", 67.57, 30.123, 28.0, 32.0, 96),
        ("toy_a", "toy-voc", "released", "on", "miou", 68.15, 31.5, 29.0, 33.0, 96),
        ("toy_a", "toy-coco", "released", "off", "miou", 39.19, 20.0, 18.0, 22.0, 96),
        ("toy_a", "toy-coco", "released", "on", "miou", 42.15, 22.0, 20.0, 24.0, 96),
        ("toy_a", "toy-voc", "released", "on", "miou_gain", 0.58, 1.377, -0.5, 2.5, 96),
        ("toy_a", "toy-coco", "released", "on", "miou_gain", math.nan, 2.0, 1.0, 3.0, 96),
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def test_paper_numbers_are_those_of_table_3():
    assert paper_number("table_3", "SD1.5", "off", "voc") == 67.57
    assert paper_number("table_3", "SD1.5", "on", "ade20k") == 26.17
    assert math.isnan(paper_number("table_3", "SD1.5", "velocity", "voc"))


@pytest.mark.parametrize(
    ("table", "row", "coco"),
    [
        ("table_6", "5 timesteps", 41.36),
        ("table_6", "on", 42.15),
        ("table_7", "10 large", 41.46),
        ("table_8", "constant 1/4", 39.58),
        ("table_9", "attention 10 middle", 30.78),
        ("table_9", "off", 39.19),
    ],
)
def test_the_papers_rows_go_by_our_names(table, row, coco):
    assert paper_number(table, "SD1.5", row, "coco") == coco
    assert row in {measured.name for measured in rows_of("ablations")}


@pytest.mark.parametrize(("row", "metric", "expected"), [
    ("off", "miou", 58.70), ("on", "precision", 71.38), ("phrases", "f1", 74.18), ("phrases", "miou_gain", 1.88),
])  # fmt: skip
def test_table_4_has_three_metrics_on_one_set(row, metric, expected):
    assert paper_number("table_4", "SD1.5", row, "aep", metric) == pytest.approx(expected)
    assert math.isnan(paper_number("table_4", "SD1.5", row, "voc", metric))
    assert math.isnan(paper_number("table_3", "SD1.5", "on", "voc", "f1"))


def test_rows_stand_beside_the_papers_numbers():
    frame = pd.DataFrame(
        {"row": ["off", "on", "best", "on"], "metric": ["miou", "miou_gain", "miou_gain", "miou_gain"]}
    )
    frame["reading"] = ["released"] * 3 + ["late layers"]
    paper = beside_paper(frame, "table_3", "SD1.5", "coco").paper
    assert paper[0] == 39.19
    assert paper[1] == pytest.approx(42.15 - 39.19)
    assert math.isnan(paper[2])
    assert math.isnan(paper[3]), "the paper has one reading"


def test_figure_7_is_known_at_its_two_printed_strengths():
    assert paper_number("figure_7", "SD1.5", "gamma 1/1", "voc") == paper_number("table_3", "SD1.5", "off", "voc")
    assert paper_number("figure_7", "SD1.5", "gamma 1/3", "voc") == paper_number("table_3", "SD1.5", "on", "voc")
    assert math.isnan(paper_number("figure_7", "SD1.5", "gamma 1/2", "voc"))


def test_unknown_paper_tables_list_the_known():
    with pytest.raises(ValueError, match="unknown table 'table_1'; known: table_2, table_3, table_4"):
        paper_number("table_1", "SD1.5", "off", "voc")


def test_pivot_keeps_the_order_of_rows_and_sets(frame):
    table = pivot(frame, "miou")
    assert list(table.columns) == ["toy-voc", "toy-coco"]
    assert [row for *_, row in table.index] == ["off", "on"]
    assert table.loc[("toy_a", "released", "off"), "toy-voc"] == "30.1 [28.0, 32.0] (67.6)"
    assert pivot(frame, "miou_gain").iloc[0, 0] == "+1.4 [-0.5, +2.5] (+0.6)"


def test_equal_numbers_give_equal_bytes(frame, tmp_path):
    first = [path.read_bytes() for path in write_table(frame, "table_x", "toy", "A caption.", tmp_path / "a")]
    second = [path.read_bytes() for path in write_table(frame.copy(), "table_x", "toy", "A caption.", tmp_path / "b")]
    assert first == second


def test_csv_is_tidy_and_latex_escaped(frame, tmp_path):
    csv, markdown, latex = write_table(frame, "table_x", "toy", "A caption.", tmp_path)
    assert csv.parent.name == "toy"
    loaded = pd.read_csv(csv)
    assert list(loaded.columns) == COLUMNS
    pd.testing.assert_frame_equal(loaded, tidy(frame))
    assert "A caption." in markdown.read_text()
    assert r"toy\_a" in latex.read_text()
    assert r"\toprule" in latex.read_text()


def test_missing_columns_are_named(frame):
    with pytest.raises(ValueError, match="paper"):
        tidy(frame.drop(columns="paper"))


def test_all_numbers_of_the_paper_are_there():
    """Counted in the paper: rows times columns of Tables II to IX, and what it says of cost and data sets."""
    sizes = reported().groupby("table").size()
    assert sizes.to_dict() == {
        "table_2": 6 * 4, "table_3": 6 * 2 * 4, "table_4": 3 * 3 * 3, "table_5": 10 * 3, "table_6": 9 * 4,
        "table_7": 5 * 4, "table_8": 12 * 4, "table_9": 10 * 4, "cost": 4, "datasets": 10,
    }  # fmt: skip
    assert not reported().duplicated(["table", "model", "row", "dataset", "metric"]).any()


@pytest.mark.parametrize("key", TABLES)
def test_a_table_shows_rows_that_are_measured_for_it(key):
    table = TABLES[key]
    measured = {row.name for batch in table.batches for row in rows_of(batch)}
    assert set(table.rows) <= measured
    assert set(table.drawn) <= set(table.rows) | set(table.best_of) | set(table.leads)
    assert set(reported().table) >= {table.printed_in} or key == "figure_7"


def test_unknown_tables_are_refused():
    with pytest.raises(ValueError, match="unknown table 'table_33'; known: table_3, table_4"):
        regenerate("table_33", ["toy-sd15"], None)


def test_table_2_shows_every_baseline_beside_the_paper():
    table = TABLES["table_2"]
    assert set(BASELINES) < set(table.rows)
    assert table.leads["DAAM against ELBO-T2IAlign"] == ("DAAM", "on")
    printed = [name for name in BASELINES if not math.isnan(paper_number("table_2", "SD1.5", name, "voc"))]
    assert printed == ["DAAM", "OVAM", "DiffPNG", "DiffSegmenter", "Semantic DiffSeg"]
    assert {TABLES[key].printed_in for key in TABLES if key.startswith("table_2")} == {"table_2"}
    names = [spec.name for spec in TABLES.values()]
    assert len(set(names)) == len(names)


def test_what_is_not_defined_is_said_below_the_table(frame, tmp_path):
    counted = Evaluation(
        {}, pd.DataFrame(), {("released", name): "it needs two sides" for name in ("DiffPNG", "not shown")}
    )
    notes = undefined({"toy-sd35": {"toy-voc": counted, "toy-coco": counted}}, ["off", "DiffPNG"])
    assert notes == ["DiffPNG is not defined for toy-sd35: it needs two sides."]
    paths = write_table(frame, "table_2", "p", "Table II", tmp_path, notes)
    assert paths[1].read_text().endswith("\n\nDiffPNG is not defined for toy-sd35: it needs two sides.\n")
    assert "% DiffPNG is not defined" in paths[2].read_text()

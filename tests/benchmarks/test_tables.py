"""What the studies' pages and files are made of."""

import math
from dataclasses import dataclass

import pytest

from ggl.benchmarks.studies.tables import (
    SPACED,
    figure_text,
    interval_text,
    markdown_table,
    read_csv,
    write_csv,
)
from ggl.measures.statistics import Interval


@dataclass(frozen=True)
class Made:
    """A row with a field of every kind."""

    name: str
    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Gap:
    """A row with a figure that may be undefined."""

    name: str
    score: float | None


def test_a_table_has_its_headings_a_rule_and_the_rows():
    rows = [("a", "1"), ("", "2")]
    assert markdown_table(("name", "x"), iter(rows)) == "| name | x |\n|---|---|\n| a | 1 |\n|  | 2 |"
    assert markdown_table(("name", "x"), rows[:1], SPACED) == "| name | x |\n| --- | --- |\n| a | 1 |"
    assert markdown_table(("name",), []) == "| name |\n|---|"


@pytest.mark.parametrize(
    ("figures", "form", "text"),
    [
        ((0.5, 0.25, 1.0), ".2f", "0.50 [0.25, 1.00]"),
        ((-1.26, -2.0, 0.04), "+.1f", "-1.3 [-2.0, +0.0]"),
        ((6, 5, 7), ".1f", "6.0 [5.0, 7.0]"),
        ((0.5, None, None), ".1f", "0.5"),
        ((0.5, math.nan, math.nan), ".1f", "0.5"),
        ((1234.5, 0.00012345, 2e6), ".3g", "1.23e+03 [0.000123, 2e+06]"),
    ],
)
def test_an_interval_follows_its_mean_where_it_is_known(figures, form, text):
    assert interval_text(*figures, form) == text
    assert figure_text(dict(zip(("mean", "low", "high"), figures, strict=True)), form) == text


def test_an_interval_of_the_statistics_has_the_same_text_as_its_json():
    interval = Interval(0.5, 0.25, 1.0, n=8)
    assert figure_text(interval) == figure_text(interval.to_dict()) == "0.50 [0.25, 1.00]"
    assert figure_text(Interval(3.0, math.nan, math.nan, n=1), ".1f") == "3.0"


def test_what_is_missing_is_empty_or_as_asked():
    undefined = {"mean": None, "low": None, "high": None}
    assert [figure_text(None), figure_text(undefined), interval_text(None, 1.0, 2.0)] == [""] * 3
    assert figure_text(undefined, missing="nan") == "nan"
    assert interval_text(None, None, None, missing="undefined") == "undefined"


def test_rows_come_back_from_csv_as_they_were(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [Made("top-k:0.01,momentum=0", 3, 0.1, True), Made("none", -1, 2e-7, False)]
    write_csv(path, Made, rows)
    assert path.read_bytes() == (
        b'name,count,share,right\n"top-k:0.01,momentum=0",3,0.1,True\nnone,-1,2e-07,False\n'
    )
    assert read_csv(path, Made) == rows


def test_no_file_and_no_rows_are_no_rows(tmp_path):
    path = tmp_path / "rows.csv"
    assert read_csv(path, Made) == []
    write_csv(path, Made, [])
    assert path.read_text() == "name,count,share,right\n"
    assert read_csv(path, Made) == []


def test_an_undefined_figure_is_empty_in_csv(tmp_path):
    write_csv(tmp_path / "rows.csv", Gap, [Gap("none", None), Gap("sign", 0.5)])
    assert (tmp_path / "rows.csv").read_text() == "name,score\nnone,\nsign,0.5\n"

"""The export: the same records come back from CSV, and the same numbers from Parquet."""

import csv
import math
import sys
from dataclasses import replace

import pytest

from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.cells import CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.export import export, read_csv, write_csv, write_parquet
from ggl.benchmarks.sweeps.records import FIGURES, CurvePoint, Record
from ggl.benchmarks.sweeps.store import Store

CELL = SweepCell(
    **{"prior": "gaussian-mixture:k=3", "victim": "lenet", "victim_weights": None, "data": "heldout"},
    **{"defense": "noise:sigma=0.1", "attacker": "adaptive", "strategy": "cmaes", "distance": "cosine"},
    **{"latents": None, "budget": 2000, "round": 0, "seed": 0, "image": 0, "images": 8, "image_seed": 1},
    **{"victim_seed": 2, "ceiling_budget": 500, "split": "iid", "fit": None, "rounds": 0},
    **{"precision": "float32", "backend": "auto"},
)
HARD = (0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 0.0, 1e22, 2.0, -1e-9)
FLOATS = [name for name, kind in FIGURES.items() if kind is float]
NUMBERS = {name: 2**62 + 1 if kind is int else 0.5 for name, kind in FIGURES.items()}
NUMBERS |= {name: HARD[i % len(HARD)] for i, name in enumerate(FLOATS)}
CURVE = (CurvePoint(10, 0.1, math.inf, 1 / 3), CurvePoint(20, 0.30000000000000004, 2.0, -0.0))

RECORDS = [
    Record(CELL, "ok", "", NUMBERS, CURVE, "aa", "bb", "cc", "cpu", "dd", '{"torch": "2.6"}', "2026-01-02"),
    Record(replace(CELL, image=1), "ok", figures={**NUMBERS, "attack_lpips": None, "label": None}),
    Record(replace(CELL, image=2, latents="box", victim_weights="w.pt"), "failed", 'a "b", c\nd\r\ne; ü'),
    Record(replace(CELL, image=3), "skipped", " left and right "),
]


def test_the_columns_are_everything_that_a_record_holds(tmp_path):
    write_csv(RECORDS, tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        names = next(csv.reader(file))
    others = ["private_image", "sibling_image", "spec", "device", "commit", "versions", "finished"]
    assert names == ["id", "status", "reason", *CELL_FIELDS, *FIGURES, "curve", *others]


def test_csv_comes_back_as_the_same_records(tmp_path):
    write_csv(RECORDS, tmp_path / "cells.csv")
    # repr tells floats apart by their bits, and 1 from 1.0.
    assert [repr(r) for r in read_csv(tmp_path / "cells.csv")] == [repr(r) for r in RECORDS]


def test_a_store_and_its_csv_hold_the_same(tmp_path):
    with Store(tmp_path, create=True) as store:
        store.write(RECORDS)
        records = store.records()
    assert export(records, tmp_path, "csv") == tmp_path / "cells.csv"
    assert read_csv(tmp_path / "cells.csv") == records
    assert sorted(map(repr, records)) == sorted(map(repr, RECORDS))
    before = (tmp_path / "cells.csv").read_bytes()
    write_csv(read_csv(tmp_path / "cells.csv"), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == before


def test_no_records_are_a_table_of_names(tmp_path):
    write_csv([], tmp_path / "cells.csv")
    assert read_csv(tmp_path / "cells.csv") == []
    assert (tmp_path / "cells.csv").read_text().count("\n") == 1


def test_the_order_of_columns_is_free(tmp_path):
    write_csv(RECORDS, tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = [row[::-1] for row in csv.reader(file)]
    with (tmp_path / "turned.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert read_csv(tmp_path / "turned.csv") == RECORDS


def test_a_long_curve_comes_back(tmp_path):
    curve = tuple(CurvePoint(i, i / 3, i / 7, i / 9) for i in range(5000))
    write_csv([replace(RECORDS[0], curve=curve)], tmp_path / "cells.csv")
    assert read_csv(tmp_path / "cells.csv")[0].curve == curve
    assert csv.field_size_limit() < 200_000


def test_parquet_holds_numbers_as_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = export(RECORDS, tmp_path / "sweep.parquet", "parquet")
    table = parquet.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert {kinds[name] for name in FLOATS} == {"double"}
    assert {kinds[name] for name in FIGURES if name not in FLOATS} == {"int64"}
    assert kinds["seed"] == kinds["budget"] == "int64"
    assert kinds["latents"] == kinds["curve"] == kinds["id"] == "string"
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [r.cell.id for r in RECORDS]
    assert {name: repr(rows[0][name]) for name in FIGURES} == {n: repr(v) for n, v in NUMBERS.items()}
    assert rows[1]["attack_lpips"] is rows[3]["attack_mse"] is rows[0]["latents"] is None


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = r'^Parquet needs pyarrow: pip install "pyarrow>=15", or export as CSV$'
    with pytest.raises(InputError, match=message):
        write_parquet(RECORDS, tmp_path / "cells.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_says_so(tmp_path):
    path = tmp_path / "none" / "cells.csv"
    message = f"^{path}: expected a file that can be written, but No such file or directory; name another$"
    with pytest.raises(InputError, match=message):
        write_csv(RECORDS, path)


def altered(tmp_path, row: int, name: str, value: str):
    """Write RECORDS with one field changed; rows are counted from the names' 1."""
    path = tmp_path / "cells.csv"
    write_csv(RECORDS, path)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[row - 1][rows[0].index(name)] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("row", "name", "value", "message"),
    [
        (
            1,
            "seed",
            "sead",
            "expected the columns that ggl exports, found a table without 'seed'; export it again",
        ),
        (3, "loss", "low", ", row 3: expected a number as loss, found 'low'; export it again"),
        (3, "loss", "nan", ", row 3: expected a number as loss, found 'nan'; export it again"),
        (4, "budget", "2e3", ", row 4: expected a whole number as budget, found '2e3'; export it again"),
        (4, "budget", "", ", row 4: expected a whole number as budget, found ''; export it again"),
        (
            2,
            "attack_rank",
            "1.5",
            ", row 2: expected a whole number as attack_rank, found '1.5'; export it again",
        ),
        (5, "status", "fine", ", row 5: cell {}: expected ok, failed or skipped as status, found 'fine'"),
        (
            5,
            "curve",
            "[[1]]",
            ", row 5: cell {}: expected a curve [[evaluations, seconds, loss, mse], ...], found '[[1]]'",
        ),
        (
            5,
            "curve",
            "",
            ", row 5: cell {}: expected a curve [[evaluations, seconds, loss, mse], ...], found ''",
        ),
    ],
)
def test_a_table_that_was_altered_is_refused_in_one_line(tmp_path, row, name, value, message):
    path = altered(tmp_path, row, name, value)
    with pytest.raises(InputError) as caught:
        read_csv(path)
    separator = "" if message.startswith(",") else ": "
    assert str(caught.value) == f"{path}{separator}{message.format(RECORDS[3].cell.id)}"


def test_a_cell_that_was_altered_is_refused(tmp_path):
    path = altered(tmp_path, 2, "budget", "5")
    message = f"{path}, row 2: cell {CELL.id}: expected the id {replace(CELL, budget=5).id} for its fields"
    with pytest.raises(InputError) as caught:
        read_csv(path)
    assert str(caught.value) == message + "; one of them was altered"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0] + ",extra", *lines[1:]], ": expected .+ found a table with 'extra'; .+"),
        (
            lambda lines: [lines[0] + ",seed", *lines[1:]],
            ": expected .+ found a table with a column twice; .+",
        ),
        (
            lambda lines: [lines[0], lines[1] + ",1"],
            r", row 2: expected (\d+) fields, found (\d+); export it again",
        ),
        (lambda lines: [lines[0], "", lines[1]], r", row 2: expected (\d+) fields, found 0; export it again"),
        (lambda lines: [], ": expected .+ found a table without 'id'; export it again"),
        (lambda lines: [lines[0], '"never closed'], ": expected CSV in UTF-8, but .+; export it again"),
        (lambda lines: ["\xff"], ": expected CSV in UTF-8, but .+; export it again"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "cells.csv"
    write_csv(RECORDS[:1], path)
    lines = path.read_text().splitlines()
    path.write_bytes("\n".join(change(lines)).encode("latin-1"))
    with pytest.raises(InputError, match=f"^{path}{message}$"):
        read_csv(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "cells.csv"
    message = rf"^{path}: expected a CSV file, but it cannot be read \(No such file or directory\)$"
    with pytest.raises(InputError, match=message):
        read_csv(path)

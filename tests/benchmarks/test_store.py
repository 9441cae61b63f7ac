"""The store: nothing that was stored is lost, and no unit of work is claimed twice."""

import math
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ggl.base.errors import InputError
from ggl.benchmarks.sweeps import store_schema
from ggl.benchmarks.sweeps.cells import CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.records import FIGURES, CurvePoint, Record
from ggl.benchmarks.sweeps.store import Store

CELL = SweepCell(
    **{"prior": "gaussian-mixture:k=3", "victim": "lenet", "victim_weights": None, "data": "heldout"},
    **{"defense": "noise:sigma=0.1", "attacker": "adaptive", "strategy": "cmaes", "distance": "cosine"},
    **{"latents": None, "budget": 2000, "round": 0, "seed": 0, "image": 0, "images": 8, "image_seed": 1},
    **{"victim_seed": 2, "ceiling_budget": 500, "split": "iid", "fit": None, "rounds": 0},
    **{"precision": "float32", "backend": "auto"},
)
NUMBERS = {name: 7 if kind is int else 0.1 + i for i, (name, kind) in enumerate(FIGURES.items())}

UNITS = [f"unit{i:03d}" for i in range(200)]


def record(seed=0, image=0, **changes) -> Record:
    cell = replace(CELL, seed=seed, image=image)
    return replace(Record(cell, "ok", figures=NUMBERS, curve=(CurvePoint(10, 0.5, 2.0, 0.25),)), **changes)


def fail_with(path, advice: str):
    return pytest.raises(InputError, match=f"^{path}: {advice}$")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A store with two cells and a spec, closed."""
    with Store(tmp_path / "sweep", create=True) as store:
        store.write([record(0), record(1)])
        store.add_spec("abc", "smoke", "budget = 3\n")
    return tmp_path / "sweep"


def first_version(path: Path, rows: list[Record]) -> None:
    """Write a store as ggl's first version did."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in store_schema.MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("PRAGMA user_version = 1")
    for row in map(store_schema.flatten, rows):
        del row["packed"]
        names = ", ".join(f'"{name}"' for name in row)
        connection.execute(
            f"INSERT INTO cells ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
        )
    connection.close()


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder whose parents everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


# What is stored comes back


texts = st.text(st.characters(codec="utf-8"), max_size=20)
floats = st.floats(allow_nan=False).map(lambda x: x + 0.0)
whole = st.integers(-(2**63) + 1, 2**63 - 1)
figures = st.fixed_dictionaries(
    {name: st.none() | (whole if kind is int else floats) for name, kind in FIGURES.items()}
).filter(lambda figures: any(value is not None for value in figures.values()))
points = st.builds(CurvePoint, whole, *(floats | st.sampled_from([math.inf, -math.inf]),) * 3)
# Dictionaries: what beartype draws to check a record would disturb hypothesis.
fields = st.fixed_dictionaries(
    {
        **{"status": st.sampled_from(["ok", "failed", "skipped"]), "reason": texts},
        **{"figures": st.just({}) | figures, "curve": st.lists(points, max_size=3).map(tuple)},
        **dict.fromkeys(("private_image", "sibling_image", "spec", "device"), texts),
        **dict.fromkeys(("commit", "versions", "finished"), texts),
    }
)
axes = st.fixed_dictionaries({"seed": whole, "data": texts, "latents": st.sampled_from([None, "box"])})


def bits(record: Record) -> str:
    """Return a text that tells floats apart by their bits, and 1 from 1.0."""
    return repr(replace(record, figures=dict(sorted(record.figures.items()))))


@settings(max_examples=25)
@given(st.lists(st.tuples(axes, fields), max_size=3, unique_by=lambda pair: repr(pair[0])))
def test_every_field_comes_back_bit_for_bit(tmp_path_factory, pairs):
    given = [Record(replace(CELL, **axes), **fields) for axes, fields in pairs]
    folder = tmp_path_factory.mktemp("sweep")
    with Store(folder, create=True) as store:
        store.write(given)
    with Store(folder) as store:
        found = {r.cell.id: r for r in store.records()}
    assert {id_: bits(r) for id_, r in found.items()} == {r.cell.id: bits(r) for r in given}


def test_a_figure_that_is_nan_or_left_out_is_none(tmp_path):
    with Store(tmp_path, create=True) as store:
        store.write([record(figures={"loss": math.nan, "attack_mse": 0.5, "ceiling_mse": -0.0})])
        figures = store.records()[0].figures
    assert set(figures) == set(FIGURES)
    assert {name: value for name, value in figures.items() if value is not None} == {
        "attack_mse": 0.5,
        "ceiling_mse": 0.0,
    }
    assert math.copysign(1, figures["ceiling_mse"]) == 1


def test_figures_of_numpy_are_kept_as_numbers(tmp_path):
    figures: dict[str, Any] = {"label_recovered": True}
    given = record(figures=figures)
    figures |= {"attack_mse": np.float32(0.1), "attack_rank": np.int64(3)}
    with Store(tmp_path, create=True) as store:
        store.write([given])
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    names = "attack_mse, attack_rank, label_recovered, typeof(attack_mse), typeof(attack_rank), typeof(loss)"
    found = connection.execute(f"SELECT {names} FROM cells").fetchone()
    connection.close()
    assert found == (float(np.float32(0.1)), 3, 1, "real", "integer", "null")


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"attack_mes": 0.1}, "expected the figures of FIGURES, found 'attack_mes'"),
        ({"attack_rank": 1.5}, "expected attack_rank whole and below 2⁶³, found 1.5"),
        ({"peak_memory": 2**63}, f"expected peak_memory whole and below 2⁶³, found {2**63}"),
        ({"label": math.inf}, "expected label whole and below 2⁶³, found inf"),
    ],
)
def test_a_figure_that_is_none_of_ours_is_refused_and_stores_nothing(tmp_path, figures, message):
    with Store(tmp_path, create=True) as store:
        with fail_with(f"cell {CELL.id}", message):
            store.write([record(1), record(figures=figures)])
        assert store.records() == []


def test_a_column_for_every_field_and_figure(folder):
    connection = sqlite3.connect(folder / "store.sqlite")
    columns = {row[1]: row[2] for row in connection.execute("PRAGMA table_info(cells)")}
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.close()
    others = {"id", "status", "reason", "curve", "private_image", "sibling_image"}
    others |= {"spec", "device", "commit", "versions", "finished"}
    assert set(columns) == {*CELL_FIELDS, *FIGURES, *others}
    assert {columns[name] for name, kind in FIGURES.items() if kind is int} == {"INTEGER"}
    assert {columns[name] for name, kind in FIGURES.items() if kind is float} == {"REAL"}
    assert mode == "wal"


def test_the_order_of_records_follows_from_the_cells_alone(tmp_path):
    made = [record(seed, image, reason="r") for seed in (0, 1, 10) for image in (0, 2, 11)]
    made = [replace(r, cell=replace(r.cell, round=k)) for k in (0, 1) for r in made]
    for name in ("a", "b"):
        random.Random(name).shuffle(shuffled := list(made))
        with Store(tmp_path / name, create=True) as store:
            for part in (shuffled[:5], shuffled[5:]):
                store.write(part)
            assert store.records() == made


def test_specs_come_back_once_in_the_order_of_adding(folder):
    with Store(folder) as store:
        store.add_spec("aaa", "cpu", "x = 1\n")
        store.add_spec("abc", "other", "never kept")
        assert store.specs() == [("abc", "smoke", "budget = 3\n"), ("aaa", "cpu", "x = 1\n")]


def test_an_ok_cell_stays_and_every_other_is_replaced(tmp_path):
    ok, failed, skipped = record(0), record(1, status="failed"), record(2, status="skipped")
    with Store(tmp_path, create=True) as store:
        store.write([ok, failed, skipped])
        store.write([replace(r, status="failed", reason="newer") for r in (ok, failed, skipped)])
        assert [(r.status, r.reason) for r in store.records()] == [
            ("ok", ""),
            ("failed", "newer"),
            ("failed", "newer"),
        ]
        store.write([record(1, reason="at last")])
        assert store.statuses() == {ok.cell.id: "ok", failed.cell.id: "ok", skipped.cell.id: "failed"}


def test_forget_failed_removes_these_alone(tmp_path):
    with Store(tmp_path, create=True) as store:
        store.write([record(0), record(1, status="failed"), record(2, status="skipped")])
        assert store.forget_failed() == 1
        assert store.forget_failed() == 0
        assert store.statuses() == {record(0).cell.id: "ok", record(2).cell.id: "skipped"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_comes_back_to_eight_bits(tmp_path, channels):
    image = torch.rand(channels, 5, 4, generator=torch.Generator().manual_seed(0))
    image[0, 0, :2] = torch.tensor([-0.1, 1.1])
    with Store(tmp_path, create=True) as store:
        store.keep_picture("0123456789abcdef", "attack", image)
        path = store.picture("0123456789abcdef", "attack")
    assert path == tmp_path / "images" / "01" / "0123456789abcdef-attack.png"
    with Image.open(path) as picture:
        found = np.asarray(picture).reshape(5, 4, channels) / 255
    assert np.abs(found - image.clamp(0, 1).permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_picture_that_cannot_be_written_says_so(tmp_path):
    with Store(tmp_path, create=True) as store:
        (tmp_path / "images").write_text("in the way")
        path = store.picture("abc", "attack")
        advice = (
            r"expected files that can be read and written, but that failed \(.+\); check the disk and rights"
        )
        with fail_with(path, advice):
            store.keep_picture("abc", "attack", torch.zeros(3, 2, 2))


# Claims


def test_a_unit_is_claimed_by_one_store_until_it_is_given_back(folder):
    with Store(folder) as one, Store(folder) as two:
        assert one.claim("u", ["x"])
        assert not two.claim("u", ["x"])
        assert not one.claim("u", ["x"])
        two.finish("u", ())
        assert one.claims() == two.claims() == {"u": True}
        one.finish("u", ())
        assert two.claim("u", ["x"])


def test_a_unit_is_done_once_all_its_cells_are(tmp_path):
    made = [record(0), record(1, status="skipped"), record(2, status="failed")]
    ids = [r.cell.id for r in made]
    with Store(tmp_path, create=True) as store:
        store.write(made)
        assert not store.claim("done", ids[:2])
        assert not store.claim("tried", ids, done=("ok", "skipped", "failed"))
        assert store.claim("failed", ids)
        assert store.claim("new", [*ids[:2], "other"], done=("ok", "skipped", "failed"))
        assert store.claims() == {"failed": True, "new": True}


def test_finish_keeps_and_gives_back_both_or_neither(folder):
    with Store(folder) as store:
        assert store.claim("u", ["x"])
        with pytest.raises(InputError, match="found 'nonsense'"):
            store.finish("u", [record(5), record(6, figures={"nonsense": 1.0})])
        assert store.claims() == {"u": True}
        assert len(store.records()) == 2
        store.finish("u", [record(5)])
        assert store.claims() == {}
        assert record(5) in store.records()


def test_a_closed_store_holds_nothing_and_leaves_no_lock(folder):
    with Store(folder) as store:
        assert store.claim("u", ["x"])
        assert len(list((folder / "runners").iterdir())) == 1
    assert list((folder / "runners").iterdir()) == []
    with Store(folder) as store:
        assert store.claims() == {}


def hold(folder: Path, number: int, barrier, pipe) -> None:
    """Claim what it can, say so, and wait to be killed."""
    barrier.wait()
    with Store(folder, create=True) as store:
        mine = []
        for k, unit in enumerate(random.Random(number).sample(UNITS, len(UNITS))):
            mine += [unit] * store.claim(unit, [unit])
            if k == 0:
                barrier.wait()  # SQLite has no queue: without this one may get nothing.
        pipe.send(mine)
        time.sleep(120)


@contextmanager
def two_runners(folder: Path) -> Iterator[list[tuple[int, list[str]]]]:
    """Start two processes on a store that is not there yet; yield their numbers and what they claimed.

    They are forked: a new interpreter takes ten seconds to import ggl.
    """
    context = multiprocessing.get_context("fork")
    barrier, pipes = context.Barrier(2, timeout=300), [context.Pipe(duplex=False) for _ in range(2)]
    processes = [
        context.Process(target=hold, args=(folder, k, barrier, pipes[k][1]), daemon=True) for k in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of threads, of which the children use none.
        for process in processes:
            process.start()
    try:
        assert all(reader.poll(300) for reader, _ in pipes)
        yield [(process.pid, reader.recv()) for process, (reader, _) in zip(processes, pipes, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_two_processes_share_the_units_and_a_killed_one_loses_its_own(tmp_path):
    folder = tmp_path / "new"
    with two_runners(folder) as ((dead, lost), (_, held)), Store(folder) as store:
        assert sorted(lost + held) == UNITS
        assert lost
        assert held
        assert not any(store.claim(unit, [unit]) for unit in lost[:3] + held[:3])
        os.kill(dead, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while store.claims()[lost[0]] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.claims() == {**dict.fromkeys(lost, False), **dict.fromkeys(held, True)}
        assert [unit for unit in lost + held if store.claim(unit, [unit])] == lost
        # Of the killed runner no file is left: this store's and the other's are.
        assert len(list((folder / "runners").iterdir())) == 2


def test_a_store_in_the_making_is_not_there_yet(tmp_path, monkeypatch):
    def slowly(connection):
        assert list(tmp_path.glob("*.sqlite")) == []
        with fail_with(tmp_path, r"expected a store \(store.sqlite\), found none; name another folder"):
            Store(tmp_path)
        store_schema.migrate(connection)

    monkeypatch.setattr("ggl.benchmarks.sweeps.store.migrate", slowly)
    with Store(tmp_path, create=True) as made, Store(tmp_path) as found:
        made.write([record(0)])
        assert found.records() == [record(0)]


# Versions


def test_a_store_of_the_first_version_is_brought_up_without_loss(tmp_path):
    made = [record(seed) for seed in range(20)] + [record(99, status="failed", reason="r", figures={})]
    first_version(tmp_path / "store.sqlite", made)
    with Store(tmp_path) as store:
        found = store.records()
        store.write([record(100)])
        assert store.records()[-1] == record(100)
    assert found == [replace(r, figures={**r.figures, "packed": None} if r.figures else {}) for r in made]
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path, monkeypatch):
    first_version(tmp_path / "store.sqlite", [record(0)])
    broken = [*store_schema.MIGRATIONS, ("DELETE FROM cells", "ALTER TABLE nowhere ADD COLUMN x REAL")]
    with monkeypatch.context() as patch:
        patch.setattr(store_schema, "MIGRATIONS", broken)
        with fail_with(tmp_path / "store.sqlite", r"expected files .+\(no such table: nowhere\).+"):
            Store(tmp_path)
    connection = sqlite3.connect(tmp_path / "store.sqlite")
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert "packed" not in {row[1] for row in connection.execute("PRAGMA table_info(cells)")}
    connection.close()
    with Store(tmp_path) as store:
        assert store.statuses() == {record(0).cell.id: "ok"}


@pytest.mark.parametrize("create", [False, True])
def test_a_store_of_a_newer_version_is_left_alone(folder, create):
    path = folder / "store.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = path.read_bytes()
    with fail_with(path, "expected a store of version 2 or older, found 7; update ggl"):
        Store(folder, create=create)
    assert path.read_bytes() == before


# What is no store, and what cannot be written


def test_a_folder_without_a_store_is_named(tmp_path):
    with fail_with(tmp_path, r"expected a store \(store.sqlite\), found none; name another folder"):
        Store(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("content", [b"hello", b"no SQLite, but longer than a page\n" * 200])
def test_a_file_that_is_not_sqlite_is_left_alone(tmp_path, content, create):
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with fail_with(path, "expected a store of ggl, found a file that SQLite does not know; move it away"):
        Store(tmp_path, create=create)
    assert path.read_bytes() == content


@pytest.mark.parametrize("create", [False, True])
def test_a_database_of_something_else_is_left_alone(tmp_path, create):
    path = tmp_path / "store.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (name)")
    connection.close()
    before = path.read_bytes()
    with fail_with(path, "expected a store of ggl, found another file; name another folder"):
        Store(tmp_path, create=create)
    assert path.read_bytes() == before


def test_an_empty_file_is_no_store_until_one_is_made_of_it(tmp_path):
    (tmp_path / "store.sqlite").touch()
    with pytest.raises(InputError, match="found another file"):
        Store(tmp_path)
    with Store(tmp_path, create=True) as store:
        assert store.records() == []


def test_what_a_killed_runner_logged_does_not_come_into_a_new_store(tmp_path):
    store = Store(tmp_path, create=True)
    store.write([record(0)])
    log = (tmp_path / "store.sqlite-wal").read_bytes()
    store.close()
    (tmp_path / "store.sqlite").unlink()
    (tmp_path / "store.sqlite-wal").write_bytes(log)
    with Store(tmp_path, create=True) as new:
        assert new.records() == []


DAMAGED = (
    r"expected a whole store, found a damaged one \(.*malformed.*\); put a copy of it in place, or save .+"
)


def test_a_store_cut_short_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(tmp_path, create=True) as store:
        store.write([record(seed) for seed in range(50)])
    content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with fail_with(path, DAMAGED), Store(tmp_path) as store:
        store.records()
    assert path.read_bytes() == content


def test_damaged_pages_end_in_one_line(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(tmp_path, create=True) as store:
        store.write([record(seed) for seed in range(50)])
        store.add_spec("abc", "smoke", "")
    content = bytearray(path.read_bytes())
    content[8 * 4096 :] = b"\xff" * (len(content) - 8 * 4096)
    path.write_bytes(content)
    with Store(tmp_path) as store:
        with fail_with(path, DAMAGED):
            store.records()
        assert store.specs() == [("abc", "smoke", "")]


def test_a_row_that_was_altered_is_named(folder):
    connection = sqlite3.connect(folder / "store.sqlite")
    connection.execute("UPDATE cells SET budget = 5 WHERE seed = 0")
    connection.commit()
    connection.close()
    altered = replace(CELL, budget=5).id
    advice = f"expected the id {altered} for its fields; one of them was altered"
    with Store(folder) as store, fail_with(f"cell {CELL.id}", advice):
        store.records()


FULL = "expected room to write, but the disk is full; free some and run it again: what was stored is kept"


def test_a_full_disk_keeps_what_was_stored(folder, monkeypatch):
    plain = sqlite3.connect

    def small(*arguments, **options):
        connection = plain(*arguments, **options)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with Store(folder) as store:
            assert store.claim("u", ["x"])
            with fail_with(folder / "store.sqlite", FULL):
                store.finish("u", [record(seed) for seed in range(2, 100)])
            assert len(store.records()) == 2
            assert store.claims() == {"u": True}
            store.finish("u", [record(2)])
    with Store(folder) as store:
        assert store.records() == [record(0), record(1), record(2)]


def test_a_full_disk_says_so_for_pictures_too(folder, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ggl.benchmarks.sweeps.store.write_atomically", full)
    with Store(folder) as store, fail_with(store.picture("ab", "attack"), FULL):
        store.keep_picture("ab", "attack", torch.zeros(3, 2, 2))


def test_a_folder_that_cannot_be_written_to_can_be_read(folder, public_folder):
    shut = public_folder / "sweep"
    shutil.copytree(folder, shut)
    before = sorted(path.name for path in shut.iterdir())
    shut.chmod(0o555)
    advice = r"expected files .+, but they or their folder cannot \((attempt.+|Permission denied)\); .+"
    try:
        with without_rights():
            with Store(shut) as store:
                assert store.records() == [record(0), record(1)]
                assert store.statuses() == {record(0).cell.id: "ok", record(1).cell.id: "ok"}
                assert store.claims() == {}
                for write in (
                    lambda: store.write([record(2)]),
                    lambda: store.claim("u", ["x"]),
                    lambda: store.add_spec("d", "d", ""),
                    store.forget_failed,
                ):
                    with fail_with(shut / "store.sqlite", advice):
                        write()
            with fail_with(shut / "store.sqlite", advice):
                Store(shut, create=True)
        assert sorted(path.name for path in shut.iterdir()) == before
    finally:
        shut.chmod(0o755)


def test_a_log_beside_a_store_that_cannot_be_written_is_not_passed_over(folder, public_folder):
    """Of a runner that was killed: what it stored last is in the log alone."""
    with Store(folder) as store:
        store.write([record(2)])
        shutil.copytree(folder, public_folder / "sweep", ignore=shutil.ignore_patterns("*-shm"))
    shut = public_folder / "sweep"
    assert (shut / "store.sqlite-wal").stat().st_size
    shut.chmod(0o555)
    try:
        with without_rights(), fail_with(shut / "store.sqlite", "expected a store in a folder that .+"):
            Store(shut)
    finally:
        shut.chmod(0o755)
    with Store(shut) as store:
        assert len(store.records()) == 3


def test_a_store_cannot_be_made_where_nothing_can(tmp_path, public_folder):
    (tmp_path / "file").write_text("")
    with fail_with(tmp_path / "file" / "store.sqlite", r"expected files that can be .+ \(File exists\); .+"):
        Store(tmp_path / "file", create=True)
    public_folder.chmod(0o555)
    advice = r"expected files .+, but they or their folder cannot \(Permission denied\); work on a copy"
    with without_rights(), fail_with(public_folder / "new" / "store.sqlite", advice):
        Store(public_folder / "new", create=True)


def test_a_store_that_another_holds_says_so(folder, monkeypatch):
    monkeypatch.setattr("ggl.benchmarks.sweeps.store.WAIT", 0.05)
    other = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    advice = "expected a store that is free, but another process has written for a minute; end it"
    with Store(folder) as store, fail_with(folder / "store.sqlite", advice):
        store.write([record(5)])
    other.close()


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "50% of a?b#c ü"
    with Store(folder, create=True) as store:
        store.write([record()])
    with Store(folder) as store:
        assert store.records() == [record()]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]

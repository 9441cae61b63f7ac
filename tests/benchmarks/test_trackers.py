"""Trackers: what they show, that a resumed sweep shows nothing twice, and that their failures stay theirs."""

import sys
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
from documented import example_module

from ggl.base.distribution import install_command
from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.records import CurvePoint, Record
from ggl.benchmarks.trackers import Tracker, TrackerWarning, load_tracker, settings_of, trackers

CELL = SweepCell(
    prior="p",
    victim="lenet",
    victim_weights=None,
    data="d",
    defense="none",
    attacker="naive",
    strategy="cma-es",
    distance="cosine",
    latents=None,
    budget=400,
    round=0,
    seed=0,
    image=0,
    images=3,
    image_seed=0,
    victim_seed=0,
    ceiling_budget=100,
    split="train",
    fit=None,
    rounds=1,
    precision="float32",
    backend="auto",
)
CELLS = [replace(CELL, defense=d, image=i) for d in ("none", "clip:4+noise:0.1") for i in range(3)]
GROUPS = ["none/naive/cma-es", "clip:4+noise:0.1/naive/cma-es"]
SHOWN = ("mse", "psnr", "loss", "rank", "seconds")


def value(cell):
    """Return another value for every cell, exact in the 32 bits that TensorBoard keeps."""
    return (1 + CELLS.index(cell)) / 64


def record_of(cell):
    v = value(cell)
    figures = {"attack_mse": v, "attack_psnr": 20 + v, "loss": v / 2, "attack_rank": 1, "seconds": v}
    curve = tuple(CurvePoint(e, 0.5, v * 400 / e, v * 200 / e) for e in (100, 200, 400))
    return Record(cell, "ok", figures=figures, curve=curve)


def sweep(specification, folder, cells=CELLS, before=0, records=None):
    folder.mkdir(exist_ok=True)
    tracker = load_tracker(specification, folder)
    tracker.start("smoke", settings_of(CELLS), len(CELLS))
    for n, record in enumerate(records or map(record_of, cells), before + 1):
        tracker.record(record, n, 0)
    tracker.close()


def events(folder):
    """Return the curves {run: {tag: [(step, value)]}} of a folder, and the other tags, by TensorBoard."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    read = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    found, others = defaultdict(dict), {}
    for run, tags in read.Runs().items():
        others[run] = set(tags["tensors"])
        for tag in tags["scalars"]:
            found[run][tag] = [(event.step, event.value) for event in read.Scalars(run, tag)]
    return found, others


def expected_curves(defense):
    cells = [cell for cell in CELLS if cell.defense == defense]
    curves = {
        "image/mse": [(cell.image, value(cell)) for cell in cells],
        "image/psnr": [(cell.image, 20 + value(cell)) for cell in cells],
        "image/loss": [(cell.image, value(cell) / 2) for cell in cells],
        "image/rank": [(cell.image, 1) for cell in cells],
        "image/seconds": [(cell.image, value(cell)) for cell in cells],
    }
    for cell in cells:
        v = value(cell)
        curves[f"search_mse/image{cell.image}"] = [(100, 2 * v), (200, v), (400, v / 2)]
        curves[f"search_loss/image{cell.image}"] = [(100, 4 * v), (200, 2 * v), (400, v)]
    return curves


def test_tensorboard_finds_every_curve_below_the_store(tmp_path):
    sweep("tensorboard", tmp_path)
    curves, others = events(tmp_path)
    assert set(curves) == {"tensorboard/smoke", *(f"tensorboard/smoke/{group}" for group in GROUPS)}
    assert curves["tensorboard/smoke"] == {
        "sweep/done": [(n, n) for n in range(1, 7)],
        "sweep/failed": [(n, 0) for n in range(1, 7)],
    }
    for group, defense in zip(GROUPS, ("none", "clip:4+noise:0.1"), strict=True):
        assert curves[f"tensorboard/smoke/{group}"] == expected_curves(defense)
    assert all("settings/text_summary" in tags for tags in others.values())


def test_tensorboard_has_the_settings_as_hyperparameters(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    sweep("tensorboard", tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard" / "smoke" / GROUPS[1])).Reload()
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = parse_session_start_info_plugin_data(content).hparams
    assert found["defense"].string_value == "clip:4+noise:0.1"
    assert found["budget"].number_value == 400
    assert "image" not in found


@pytest.mark.parametrize("cut", range(7))
def test_a_resumed_sweep_shows_each_point_once(tmp_path, cut):
    sweep("tensorboard", tmp_path / "parts", CELLS[:cut])
    sweep("tensorboard", tmp_path / "parts", CELLS[cut:], before=cut)
    sweep("tensorboard", tmp_path / "whole")
    assert events(tmp_path / "parts")[0] == events(tmp_path / "whole")[0]


def test_a_record_that_a_kill_left_half_hides_nothing_of_the_next_run(tmp_path):
    sweep("tensorboard", tmp_path, CELLS[:3])
    for path in tmp_path.rglob("events*"):
        path.write_bytes(path.read_bytes()[:-9])
    sweep("tensorboard", tmp_path, CELLS[3:], before=3)
    curves, _ = events(tmp_path)
    assert curves[f"tensorboard/smoke/{GROUPS[1]}"] == expected_curves("clip:4+noise:0.1")
    assert [step for step, _ in curves["tensorboard/smoke"]["sweep/done"]] == [1, 2, 3, 4, 5, 6]


def test_a_name_is_one_folder_whatever_it_holds(tmp_path):
    odd = ["precode:weights=../../x", "noise:" + "1" * 300, "noise:" + "1" * 299]
    records = [Record(replace(CELL, defense=defense), "ok", figures={"loss": 1.0}) for defense in odd]
    sweep("tensorboard", tmp_path / "store", records=records)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    folders = list((tmp_path / "store" / "tensorboard" / "smoke").glob("*/naive/cma-es"))
    assert len(folders) == 3


def test_what_is_not_ok_or_not_finite_is_not_drawn(tmp_path):
    figures = {"attack_mse": None, "attack_psnr": float("nan"), "loss": float("inf"), "attack_rank": 2}
    curve = (CurvePoint(100, 0.1, float("inf"), 0.5),)
    records = [
        Record(CELLS[0], "failed", "out of memory"),
        Record(CELLS[1], "skipped", "a reason"),
        Record(CELLS[3], "ok", figures=figures, curve=curve),
    ]
    sweep("tensorboard", tmp_path, records=records)
    curves, _ = events(tmp_path)
    group = f"tensorboard/smoke/{GROUPS[1]}"
    assert set(curves) == {"tensorboard/smoke", group}
    assert curves[group] == {"image/rank": [(0, 2)], "search_mse/image0": [(100, 0.5)]}


def test_an_axis_with_several_values_is_in_the_name(tmp_path):
    cells = [replace(CELL, seed=seed, budget=budget) for seed in (0, 7) for budget in (100, 200)]
    tracker = load_tracker("tensorboard", tmp_path)
    tracker.start("smoke", settings_of(cells), 4)
    for n, cell in enumerate(cells, 1):
        tracker.record(Record(cell, "ok", figures={"loss": 1.0}), n, 0)
    tracker.close()
    assert set(events(tmp_path)[0]) - {"tensorboard/smoke"} == {
        f"tensorboard/smoke/{GROUPS[0]}/budget={budget}/seed={seed}"
        for seed in (0, 7)
        for budget in (100, 200)
    }


def test_settings_are_the_values_of_every_field_but_the_image():
    settings = settings_of(CELLS)
    assert settings["defense"] == ("none", "clip:4+noise:0.1")
    assert settings["budget"] == (400,)
    assert "image" not in settings


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    with pytest.raises(InputError) as error:
        load_tracker(name, tmp_path)
    assert str(error.value) == (
        f"this tracker needs the package {name} (import of {name} halted; None in sys.modules): "
        f"{install_command(name)}, or leave it out: --tracker none"
    )


def test_no_tracker_writes_nothing(tmp_path):
    sweep("none", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("tensorbord", "no tracker is named 'tensorbord'; did you mean 'tensorboard'?"),
        ("tensorboard:x", "tracker 'tensorboard:x': expected nothing after the name, found 'x'"),
        ("none:x=1", "tracker 'none:x=1': expected nothing after the name, found 'x=1'"),
        (
            "pathlib:PurePath",
            r"tracker 'pathlib:PurePath': expected start, record, close and errors, "
            r"found PurePosixPath without; see docs/trackers.md",
        ),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path, specification, message):
    with pytest.raises(InputError) as error:
        load_tracker(specification, tmp_path)
    assert str(error.value).startswith(message)


class Failing:
    """Writes down its calls; fails in those that it is told to."""

    errors = (OSError,)

    def __init__(self, folder):
        self.folder, self.calls, self.fails = folder, [], {}

    def start(self, name, settings, total):
        self._call("start")

    def record(self, record, done, failed):
        self._call("record")

    def close(self):
        self._call("close")

    def _call(self, name):
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]


@pytest.fixture
def failing(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "_entries", dict(trackers._entries))
    made = Failing(tmp_path)
    trackers.register("failing")(lambda folder: made)
    return made


def test_a_tracker_that_cannot_start_is_one_line(failing, tmp_path):
    failing.fails["start"] = OSError("no route to host\nand more")
    with pytest.raises(InputError) as error:
        sweep("failing", tmp_path)
    assert str(error.value) == (
        "tracker 'failing' cannot start: no route to host; mend that or leave it out: --tracker none"
    )


def test_a_tracker_that_did_not_start_is_not_closed(failing, tmp_path):
    failing.fails["start"] = OSError("no route to host")
    tracker = load_tracker("failing", tmp_path)
    with pytest.raises(InputError):
        tracker.start("smoke", {}, 1)
    tracker.close()
    assert failing.calls == ["start"]


def test_a_tracker_that_fails_is_closed_and_named_once(failing, tmp_path):
    failing.fails |= {"record": OSError(28, "No space left on device"), "close": OSError("still full")}
    with pytest.warns(TrackerWarning) as caught:
        sweep("failing", tmp_path)
    (warning,) = caught
    assert str(warning.message) == (
        "tracker 'failing' failed and is closed, the sweep goes on: [Errno 28] No space left on device"
    )
    assert failing.calls == ["start", "record", "close"]


def test_a_tracker_that_fails_at_the_end_is_a_warning(failing, tmp_path):
    failing.fails["close"] = ConnectionResetError()
    with pytest.warns(TrackerWarning, match="the sweep goes on: ConnectionResetError"):
        sweep("failing", tmp_path)


def test_a_tracker_is_started_again_for_the_next_sweep_unless_it_failed(failing):
    tracker = load_tracker("failing", failing.folder)
    tracker.start("one", {}, 1)
    tracker.close()
    failing.fails["start"] = OSError("gone")
    with pytest.warns(TrackerWarning, match="failed and is closed, the sweep goes on: gone"):
        tracker.start("two", {}, 1)
    tracker.record(record_of(CELLS[0]), 1, 0)
    tracker.close()
    tracker.start("three", {}, 1)
    assert failing.calls == ["start", "close", "start"]


def test_a_bug_in_a_tracker_is_not_hidden(failing, tmp_path):
    failing.fails["record"] = KeyError("attack_mse")
    with pytest.raises(KeyError):
        sweep("failing", tmp_path)


def test_a_folder_that_goes_away_ends_the_tracking_alone(tmp_path):
    tracker = load_tracker("tensorboard", tmp_path)
    tracker.start("smoke", settings_of(CELLS), len(CELLS))
    (tmp_path / "tensorboard").rename(tmp_path / "elsewhere")
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.warns(TrackerWarning, match="tracker 'tensorboard' failed and is closed, .*Not a directory"):
        tracker.record(record_of(CELLS[0]), 1, 0)
    tracker.record(record_of(CELLS[1]), 2, 0)
    tracker.close()


class FakeRun:
    def __init__(self, given):
        self.given, self.steps, self.rows, self.finished = given, {}, [], 0

    def define_metric(self, name, step_metric):
        self.steps[name] = step_metric

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    """Return a stand-in for wandb: the calls that its version 0.31.0 takes, which was tried by hand."""
    runs = []

    def init(
        *,
        project,
        entity=None,
        dir,  # noqa: A002
        id,  # noqa: A002
        group,
        name,
        config,
        resume,
        reinit,
        settings,
    ):
        runs.append(FakeRun(locals() | {"runs": None}))
        return runs[-1]

    class Error(Exception):
        pass

    module = SimpleNamespace(init=init, Settings=lambda **options: options, Error=Error, runs=runs)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_has_a_run_a_group(wandb, tmp_path):
    sweep("wandb:leaks,entity=us", tmp_path)
    assert [run.given["name"] for run in wandb.runs] == ["smoke", *GROUPS]
    first, group, _ = wandb.runs
    wanted = {"project": "leaks", "entity": "us", "group": "smoke", "resume": "allow", "dir": str(tmp_path)}
    assert all(run.given | wanted == run.given for run in wandb.runs)
    assert group.given["config"]["defense"] == "none"
    assert first.given["config"]["defense"] == ("none", "clip:4+noise:0.1")
    assert first.rows == [{"done": n, "sweep/done": n, "sweep/failed": 0} for n in range(1, 7)]
    assert group.rows[0] == {"image": 0} | {
        f"image/{name}": {"mse": 1, "psnr": 1281, "loss": 0.5, "rank": 64, "seconds": 1}[name] / 64
        for name in SHOWN
    }
    assert group.rows[1] == {"evaluations": 100, "search_mse/image0": 2 / 64, "search_loss/image0": 4 / 64}
    assert len(group.rows) == 3 * (1 + 3)
    assert [run.finished for run in wandb.runs] == [1, 1, 1]


def test_wandb_finds_the_steps_of_a_curve_beside_its_values(wandb, tmp_path):
    sweep("wandb", tmp_path)
    for run in wandb.runs:
        for row in run.rows:
            curves = [name for name in row if "/" in name]
            assert curves
            assert all(run.steps[f"{name.partition('/')[0]}/*"] in row for name in curves)


def test_wandb_meets_its_runs_again(wandb, tmp_path):
    sweep("wandb", tmp_path / "a", CELLS[:2])
    sweep("wandb", tmp_path / "a", CELLS[2:], before=2)
    sweep("wandb", tmp_path / "b")
    ids = [run.given["id"] for run in wandb.runs]
    assert ids[:2] == ids[2:4]
    assert len({*ids[:5], *ids[5:]}) == 6
    assert all(len(i) <= 64 and i.replace("-", "").isalnum() for i in ids)


def test_two_sweeps_of_a_store_are_two_runs(wandb, tmp_path):
    tracker = load_tracker("wandb", tmp_path)
    for name in ("one", "two"):
        tracker.start(name, settings_of(CELLS), 6)
        tracker.close()
    assert len({run.given["id"] for run in wandb.runs}) == 2
    assert [run.given["name"] for run in wandb.runs] == ["one", "two"]


def test_wandb_without_a_login_is_one_line(wandb, tmp_path):
    def init(**_):
        raise wandb.Error("No API key configured. Use `wandb login` to log in.")

    wandb.init = init
    with pytest.raises(InputError, match="tracker 'wandb' cannot start: No API key configured"):
        sweep("wandb", tmp_path)


class FakeClient:
    """The part of MLflow's client that the tracker uses, with one memory for all clients of a URI."""

    stores: dict = {}  # noqa: RUF012

    def __init__(self, tracking_uri):
        self.uri = tracking_uri
        self.experiments, self.runs = self.stores.setdefault(tracking_uri, ({}, {}))

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        self.experiments[name] = str(len(self.experiments))
        return self.experiments[name]

    def search_runs(self, experiments, text):
        tag = text.removeprefix("tags.`ggl.run` = '").removesuffix("'")
        return [run for run in self.runs.values() if run.tags["ggl.run"] == tag and run.place in experiments]

    def create_run(self, experiment, run_name, tags):
        run_id = str(len(self.runs))
        info = SimpleNamespace(run_id=run_id)
        made = {"params": {}, "metrics": [], "status": "RUNNING", "place": experiment}
        self.runs[run_id] = SimpleNamespace(info=info, name=run_name, tags=tags, **made)
        return self.runs[run_id]

    def update_run(self, run_id, status):
        self.runs[run_id].status = status

    def log_batch(self, run_id, metrics=(), params=()):
        self.runs[run_id].metrics += [(name, step, value) for name, value, _, step in metrics]
        self.runs[run_id].params |= dict(params)

    def set_terminated(self, run_id):
        self.runs[run_id].status = "FINISHED"


@pytest.fixture
def mlflow(monkeypatch):
    """Return a stand-in for mlflow: the calls that its version 3.17.2 takes, which was tried by hand."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(FakeClient, "stores", {})
    entities = SimpleNamespace(Metric=lambda *parts: parts, Param=lambda *parts: parts)

    class MlflowException(Exception):  # noqa: N818
        pass

    module = SimpleNamespace(
        MlflowClient=FakeClient, MlflowException=MlflowException, entities=entities, __path__=[]
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return module


def test_mlflow_has_a_run_a_group_in_a_local_file(mlflow, tmp_path):
    sweep("mlflow", tmp_path)
    ((uri, (experiments, runs)),) = FakeClient.stores.items()
    assert uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert (tmp_path / "mlflow").is_dir()
    assert list(experiments) == ["smoke"]
    assert [run.name for run in runs.values()] == ["smoke", *GROUPS]
    first, group, _ = runs.values()
    assert first.params["defense"] == "none, clip:4+noise:0.1"
    assert group.params["defense"] == "none"
    curves = defaultdict(list)
    for name, step, v in group.metrics:
        curves[name].append((step, v))
    assert curves == expected_curves("none")
    assert {run.status for run in runs.values()} == {"FINISHED"}


def test_mlflow_meets_its_runs_again(mlflow, tmp_path):
    sweep("mlflow", tmp_path / "a", CELLS[:2])
    sweep("mlflow", tmp_path / "a", CELLS[2:], before=2)
    ((_, (_, runs)),) = FakeClient.stores.items()
    assert [run.name for run in runs.values()] == ["smoke", *GROUPS]
    points = [(name, step) for run in runs.values() for name, step, _ in run.metrics]
    assert len(points) == 2 * len(CELLS) + 11 * len(CELLS)


def test_mlflow_takes_a_server_and_an_experiment(mlflow, tmp_path):
    sweep("mlflow:http://localhost:5000,experiment=mine", tmp_path)
    ((uri, (experiments, _)),) = FakeClient.stores.items()
    assert (uri, list(experiments)) == ("http://localhost:5000", ["mine"])
    assert not (tmp_path / "mlflow").exists()


@pytest.fixture
def example(monkeypatch, tmp_path):
    with example_module("trackers.md", "mytracker", trackers, monkeypatch, tmp_path):
        yield


@pytest.mark.parametrize("name", ["lines", "mytracker:Lines"])
def test_the_documented_tracker_works(example, tmp_path, name):
    store = tmp_path / "store"
    store.mkdir()
    assert isinstance(load_tracker(name, store), Tracker)
    sweep(f"{name}:log.txt", store, CELLS[:2])
    sweep(f"{name}:log.txt", store, records=[Record(CELLS[2], "failed", "out of memory")], before=2)
    assert (store / "log.txt").read_text().splitlines() == [
        "1/6 none cma-es image 0: mse 0.0156",
        "2/6 none cma-es image 1: mse 0.0312",
        "3/6 none cma-es image 2: failed, out of memory",
    ]

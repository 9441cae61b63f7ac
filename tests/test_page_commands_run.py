"""Every command of the README and the pages runs, at a tiny budget, on files of the names that it gives."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import readers_folder
from test_page_commands import FOUND

from ggl.benchmarks.trackers.catalog import trackers
from ggl.defenses.catalog import defenses
from ggl.generators.catalog import priors
from ggl.optimizers.catalog import strategies

pytestmark = [
    pytest.mark.slow("seventy commands, a few seconds each"),
    # As it should say of weights that are random.
    pytest.mark.filterwarnings("ignore::ggl.generators.plausibility.ImplausiblePriorWarning"),
]

LEFT_OUT = {
    r"\$": "part of a script",
    r"--sha256|/data/": "a number and a path of somebody's own: tests/commands/test_verify.py",
    "reproduce": "make reproduce-smoke runs them all",
    "^ggl demo": "make demo runs it",
    "exit=full": "needs weights that are not bundled",
    "engine ray": "tests/benchmarks/test_ray_engine.py",
    "wandb|mlflow": "needs a package that is not installed",
    "flow.safetensors": "needs a training of hours; tests/generators has a short one",
}
"""What a command holds, and why it is not run here."""

REGISTRIES = (defenses, priors, strategies, trackers)

SMALL = {
    "audit": "--budget 60 --ceiling-budget 20",
    "i2f": "--images 2",
    "prior-report": "--images 2 --budget 60",
    "utility": "--rounds 2 --seeds 2",
    "train-victim": "--marks 0,2",
}
"""Options behind a command's own; of options that are given twice the last one counts."""

SWEEP = "ggl bench run benchmarks/specs/cpu.toml --store runs/cpu"
UTILITY = "ggl utility --data fashion-mnist.npz --victim lenet --out"

FIRST = {
    "verify runs/evidence.zip --rerun": "ggl audit --out runs/evidence --evidence runs/evidence.zip",
    "report runs/bench/smoke": "ggl bench run benchmarks/specs/smoke.toml",
    "report runs/cpu": SWEEP,
    "bench export": SWEEP,
    "runs/costs/utility.json": f"{UTILITY} runs/costs --defense prune:0.9 --defense dp-sgd:1,1",
    "runs/cpu-utility/": f"{UTILITY} runs/cpu-utility --defense noise:0.2",
}
"""What a command needs, and the command that makes it."""


def left_out(line: str) -> bool:
    return any(re.search(pattern, line) for pattern in LEFT_OUT)


def small(line: str) -> list[str]:
    """Return the words of a command behind `ggl`, at a tiny budget."""
    words = shlex.split(line, comments=True)[1:]
    words += SMALL.get(words[0], "").split()
    if "--attack" in words:
        words += ["--attack-evaluations", "2"]
    if "leaderboard" in words:
        words += ["--images", "1", "--budget", "60", "--rounds", "1"]
    if words[0] == "audit" and "resnet18" in words:
        words += ["--budget", "20", "--ceiling-budget", "4"]
    if words[0] == "audit" and not {"--update", "--update-difference"} & {*words}:
        batch = int(words[words.index("--batch-size") + 1]) if "--batch-size" in words else 1
        words += ["--images", str(12 if "--groups" in words else 2 * batch)]
    for place in reversed([k for k, word in enumerate(words) if word == "--defense"][2:]):
        del words[place : place + 2]
    return words


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    readers_folder.write(folder)
    return folder


@pytest.fixture
def reader(made, tmp_path, monkeypatch):
    """Stand in a reader's folder, a fresh one but for links to what was made."""
    for entry in made.iterdir():
        if entry.name in {"runs", "benchmarks"}:
            shutil.copytree(entry, tmp_path / entry.name)
        else:
            (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if name.partition(".")[0] in {*readers_folder.MODULES, "mypackage", "mynets"}:
            del sys.modules[name]


@pytest.mark.parametrize(
    "line", [line for line in FOUND if not left_out(line)], ids=lambda line: " ".join(line.split())
)
def test_a_command_of_a_page_runs(line, reader, ggl):
    for folder, pattern in {"capture": "runs/capture/", "lenet": "runs/lenet/"}.items():
        if pattern in line:
            shutil.copytree(folder, f"runs/{folder}")
    for pattern, first in FIRST.items():
        if pattern in line:
            code, _, err = ggl(*small(first))
            assert code == 0, err
    code, out, err = ggl(*small(line))
    if "not at hand; run ggl weights fetch" in err:
        pytest.skip(err)
    allowed = {0, 3} if "--fail-on" in line else {0}
    assert code in allowed, err
    assert "Traceback" not in out + err
    words = shlex.split(line, comments=True)
    if "--out" in words:
        assert any(Path(words[words.index("--out") + 1]).iterdir())


def test_what_is_left_out_is_there():
    assert [pattern for pattern in LEFT_OUT if not any(re.search(pattern, line) for line in FOUND)] == []
    assert [pattern for pattern in FIRST if not any(pattern in line for line in FOUND)] == []

"""Plans: counts against a slow sum over cells, the time's arithmetic, and a true calibration."""

import re

import pytest
import torch

from ggl.base.processes import one_thread
from ggl.benchmarks.sweeps.calibration import Calibration
from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.plan import plan, plan_lines
from ggl.benchmarks.sweeps.spec import Spec, parse_spec

TEXT = """name = "small"
images = 3
ceiling_budget = 40
pack = 2
[axes]
prior = "fashion-dcgan32"
victim = "lenet"
data = "fashion-mnist-heldout"
defense = ["none", "precode"]
attacker = ["adaptive", "expectation"]
strategy = ["random", "adam", "bo"]
budget = [20, 100]
[[exclude]]
strategy = "adam"
attacker = "expectation"
reason = "slow"
"""


@pytest.fixture
def spec() -> Spec:
    return parse_spec(TEXT, "small.toml")


def test_counts_are_sums_over_the_cells_that_nothing_refuses(spec: Spec) -> None:
    found = plan(spec, calibrate=False)
    # `expectation` is an attacker of precode alone, where a trial gradient averages 4 draws; bo's initial
    # design takes 50 evaluations.
    cells = [
        cell
        for cell in spec.cells()
        if not (cell.attacker == "expectation" and cell.defense == "none")
        and not (cell.strategy == "bo" and cell.budget == 20)
    ]
    assert found.cells == tuple(cells)
    assert [len(pack) for pack in found.packs] == [2, 1] * (len(cells) // 3)
    assert found.searched == sum(3 * cell.budget for cell in cells)
    draws = {"adaptive": 1, "expectation": 4}
    assert found.passes == sum(3 * cell.budget * draws[cell.attacker] for cell in cells)
    assert found.inverted == 3 * 40
    assert found.skipped == {"slow": 2 * 2 * 3}
    assert sum(found.refused.values()) + len(cells) == len(spec.cells())
    assert found.estimate is None


def test_lines_say_what_will_run_and_what_not(spec: Spec) -> None:
    lines = plan_lines(plan(spec, calibrate=False))
    assert lines == [
        f"small ({spec.hash}): 39 cells in 26 packs, 33 left out",
        "  prior: fashion-dcgan32 (39)",
        "  victim: lenet (39)",
        "  data: fashion-mnist-heldout (39)",
        "  defense: none (15) · precode (24)",
        "  attacker: adaptive (30) · expectation (9)",
        "  strategy: random (18) · adam (12) · bo (9)",
        "  distance: cosine (39)",
        "  budget: 20 (15) · 100 (24)",
        "  round: 0 (39)",
        "  seed: 0 (39)",
        "skipped by the spec:",
        "  12 cells: slow",
        "refused by a component:",
        "  12 cells: defense none does not know the attacker 'expectation'; "
        "it knows naive, adaptive, informed",
        "  9 cells: bo: expected a budget above the initial design's 50 evaluations, found 20; "
        "raise the budget or lower initial",
        "evaluations: 8,100 of searches at most, controls included, and 120 of ceilings; the searches take "
        "14,040 passes through victims",
    ]


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for what is timed: seconds that can be added up by hand."""

    def evaluation(self: Calibration, cell: SweepCell, reference: SweepCell) -> float:
        assert reference.defense == "none"
        return 0.002 if cell.strategy == "adam" else 0.001

    def fixed(self: Calibration, cell: SweepCell, reference: SweepCell) -> tuple[float, float]:
        return (1.0, 0.5) if cell.defense == "precode" else (1.0, 0.25)

    monkeypatch.setattr(Calibration, "evaluation", evaluation)
    monkeypatch.setattr(Calibration, "fixed", fixed)
    monkeypatch.setattr(Calibration, "ceiling", lambda self, cell: 0.01)


@pytest.mark.usefixtures("costs")
def test_time_is_added_up_over_packs(spec: Spec) -> None:
    told: list[str] = []
    found = plan(spec, workers=1, progress=told.append)
    estimate = found.estimate
    assert estimate is not None
    seconds = {
        name: sum(
            3 * cell.budget * (0.002 if name == "adam" else 0.001)
            for cell in found.cells
            if cell.strategy == name
        )
        for name in ("random", "adam", "bo")
    }
    pieces = {piece.what: piece for piece in estimate.pieces}
    assert {name: pieces[name].seconds for name in seconds} == pytest.approx(seconds)
    assert pieces["ceilings"].evaluations == 120
    assert pieces["ceilings"].seconds == pytest.approx(1.2)
    each = [0.5 if cell.defense == "precode" else 0.25 for cell in found.cells]
    assert pieces["sharing and scoring"].seconds == pytest.approx(len(found.packs) + sum(each))
    assert [name for name, piece in pieces.items() if piece.at_least] == ["bo"]
    assert estimate.at_least
    assert estimate.seconds == pytest.approx(sum(piece.seconds for piece in estimate.pieces))
    assert told[0] == "fashion-dcgan32, ceilings of fashion-mnist-heldout"
    assert len(told) == 1 + len(found.packs)


@pytest.mark.usefixtures("costs")
def test_workers_share_packs_but_no_pack(spec: Spec) -> None:
    one, two, many = (plan(spec, workers=n).estimate for n in (1, 2, 1000))
    assert one is not None
    assert two is not None
    assert many is not None
    assert one.seconds / 2 <= two.seconds < 0.6 * one.seconds
    # The longest pack: two cells of adam at 100 evaluations under precode, or of the other two.
    assert many.seconds == pytest.approx(3 * 2 * 100 * 0.002 + 1 + 2 * 0.5)


@pytest.mark.usefixtures("costs")
def test_lines_give_the_time_and_mark_what_grows(spec: Spec) -> None:
    lines = plan_lines(plan(spec, workers=2))
    assert any(
        re.match(r"time: at least \d+ s with 2 workers of one thread, from \d+ s of work", s) for s in lines
    )
    assert any(re.match(r"  bo: at least .* s, 1\.00 s per 1,000$", line) for line in lines)
    assert any(re.match(r"  adam: \d.* s, 2\.00 s per 1,000$", line) for line in lines)


@pytest.mark.slow("measures time")
def test_a_true_calibration_tells_cheap_from_costly() -> None:
    text = (
        TEXT.replace('"random", "adam", "bo"', '"random", "adam", "pycma"')
        .replace("[20, 100]", "64")
        .replace("precode", "noise:1")
    )
    text = text.replace('attacker = ["adaptive", "expectation"]', "").partition("[[exclude]]")[0]
    threads = torch.get_num_threads()
    found = plan(parse_spec(text, "true.toml"), workers=2)
    assert torch.get_num_threads() == threads
    assert found.estimate is not None
    pieces = {piece.what: piece for piece in found.estimate.pieces}
    assert list(pieces) == ["random", "adam", "pycma", "ceilings", "sharing and scoring"]
    assert 0 < pieces["random"].seconds < pieces["adam"].seconds
    assert 0 < found.estimate.seconds < sum(piece.seconds for piece in pieces.values())
    assert not found.estimate.at_least


def test_threads_are_given_back_after_an_error() -> None:
    before, within = torch.get_num_threads(), []

    def fail() -> None:
        with one_thread():
            within.append(torch.get_num_threads())
            raise RuntimeError("stop")

    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            fail()
        assert (within, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)

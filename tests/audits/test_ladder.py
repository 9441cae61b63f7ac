"""A ladder: its rungs in order, what becomes of each, and figures equal to those of plain audits."""

import json
import warnings

import pytest
import torch
from torch import nn

import ggl
from ggl.audits import request
from ggl.audits.ladder import plan_ladder
from ggl.audits.ladder_findings import Ladder, Place
from ggl.audits.rungs import rungs_of
from ggl.base.errors import InputError
from ggl.defenses import load_defense
from ggl.gradients import Step, View

SIDE, CLASSES, BUDGET = 12, 3, 24
NAMES = [
    *("class alone", "closed form", "pixels", "prior", "defense known", "derivatives", "batch statistics"),
    *("true labels", "parameters told", "all together", "image by image"),
]

pytestmark = pytest.mark.filterwarnings("ignore::ggl.attacks.strategy_choice.StrategyWarning")


def linear():
    """A victim whose first layer is linear, and tells the image of one gradient."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()


def convolutional(*, normalized=False):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, stride=3), *([nn.BatchNorm2d(4)] if normalized else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 16, CLASSES)).eval()


@pytest.fixture(scope="module")
def pixels():
    """The least prior that there is: searches of it take no time."""
    return ggl.load_prior(f"pixels:1x{SIDE}x{SIDE}")


@pytest.fixture(scope="module")
def drawn():
    """Private images, their labels, and a pool of the same kind."""
    random = torch.Generator().manual_seed(1)
    images = torch.rand(4, 1, SIDE, SIDE, generator=random)
    pool = torch.rand(18, 1, SIDE, SIDE, generator=random)
    return images, torch.tensor([1, 0, 2, 1]), (pool, torch.arange(18) % CLASSES)


@pytest.fixture
def audited(pixels, drawn):
    """Audit the drawn images; they are their own ceiling."""
    images, labels, pool = drawn

    def run(victim, *, count=1, **changes):
        settings = {"prior": pixels, "budget": BUDGET, "seed": 0, "decoys": pool, **changes}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="prior pixels")
            return ggl.audit(victim, images[:count], labels[:count], ceiling=images[:count], **settings)

    return run


@pytest.fixture
def planned(audited, monkeypatch):
    """Plan a ladder and return it: nothing is searched."""
    plans = []

    def keep(*given):
        plans.append(plan_ladder(*given))
        raise KeyboardInterrupt

    def plan(victim, **changes):
        monkeypatch.setattr(request, "plan_ladder", keep)
        with pytest.raises(KeyboardInterrupt):
            audited(victim, ladder=True, **changes)
        return plans[-1]

    return plan


def places(plan, defense="none"):
    """Return what becomes of a defense's rungs: strategy and labels, "as NAME", or the reason."""
    names = {number: rung.name for number, rung in enumerate(plan.rungs, 1)}
    attempts = next(attempts for known, attempts in plan.attempts if known.name == defense)
    found = {}
    for attempt in attempts:
        place, rung = attempt.place, attempt.rung
        told = f"{rung.strategy}, {attempt.attacker}, {place.label_rule}"
        told = told if place.same_as is None else f"as {names[place.same_as]}"
        found[rung.name] = place.reason or told
    return found


# The rungs


def test_rungs_come_in_one_order_realistic_before_diagnostic():
    rungs = rungs_of([load_defense("none")])
    assert [rung.name for rung in rungs] == NAMES
    assert [rung.kind for rung in rungs] == ["control", *["realistic"] * 6, *["diagnostic"] * 4]
    for k, rung in enumerate(rungs):
        assert rung.on in ("", *NAMES[:k])


def test_published_attacks_stand_between_naive_and_adaptive_attackers():
    defenses = [load_defense(name) for name in ("soteria:0.8", "precode:16", "cvb:3,channels=4")]
    names = [rung.name for rung in rungs_of(defenses)]
    published = [f"published: {name}" for name in ("drop", "matched", "expectation", "ignore")]
    assert names == [*NAMES[:4], *published, *NAMES[4:]]


def test_a_rung_assumes_what_the_one_below_does_and_what_it_adds():
    """Of a search of the prior: whatever differs is stronger, and named."""
    rungs = {rung.name: rung for rung in rungs_of([load_defense("none")])}
    changed = {
        name: [
            about for about, assumed in rung.assumes().items() if assumed != rungs[rung.on].assumes()[about]
        ]
        for name, rung in rungs.items()
        if rung.on
    }
    assert changed == {
        "defense known": ["of the defense"],
        "derivatives": ["derivatives"],
        "batch statistics": ["batch statistics"],
        "true labels": ["labels"],
        "parameters told": ["of the defense"],
        "all together": ["derivatives", "batch statistics"],
        "image by image": ["batch statistics", "gradient of"],
    }


# What becomes of them


def test_rungs_that_do_the_same_are_one_and_the_others_say_which(planned):
    plan = planned(linear(), defenses=["none", "prune-global:0.5"])
    alike = {
        "closed form": "analytic, analytic, inferred",
        "pixels": "ig, naive, inferred",
        "prior": "auto, naive, inferred",
        "derivatives": "adam, adaptive, inferred",
        "all together": "as derivatives",
        "image by image": "as derivatives",
    }
    for defense, known, last in (
        ("none", "as prior", "as prior"),
        ("prune-global:0.5", "auto, adaptive, inferred", "as defense known"),
    ):
        found = places(plan, defense)
        reason = found.pop("batch statistics")
        assert reason.startswith("expected a victim in train mode with batch normalization")
        assert found == {**alike, "defense known": known, "true labels": last, "parameters told": last}
    notes = plan.lines()[1:]
    assert "under none, rungs 5, 8 and 9 do what rung 4 does" in notes
    assert "under prune-global:0.5, rungs 10 and 11 do what rung 6 does" in notes
    assert any(
        note.startswith("under none, prune-global:0.5, rung 7, batch statistics, cannot be") for note in notes
    )


def test_published_attacks_are_of_the_defenses_that_know_them(planned):
    plan = planned(linear(), defenses=["prune-global:0.5", "precode:4"])
    assert not any(name.startswith("published") for name in places(plan, "prune-global:0.5"))
    assert "published: pruned-trial" in places(planned(linear(), defenses=["prune:0.5"]), "prune:0.5")
    found = places(plan, ggl.load_defense("precode:4").name)
    assert found["published: matched"] == "auto, matched, inferred"
    assert found["published: expectation"] == "auto, expectation, inferred"
    assert found["defense known"] == "auto, adaptive, inferred"
    assert found["parameters told"] == "as defense known"


def test_the_closed_form_needs_no_prior_and_leaves_nothing(audited):
    """Its labels are read off the gradient, not told."""
    cell = audited(linear(), ladder=True).to_dict()["results"][0]
    assert (cell["rung"], cell["strategy"], cell["label_recovery"]["mean"]) == (2, "closed form", 1.0)
    assert cell["psnr"]["mean"] > 60


def test_labels_that_noise_hides_make_rungs_of_their_own(planned):
    found = places(planned(convolutional(), count=3, defenses=["noise:30"]), "noise:30")
    assert found["true labels"] == "auto, adaptive, known"
    assert found["parameters told"] == "as true labels"
    assert found["all together"] == "adam, informed, known"


def test_where_no_label_can_be_read_it_is_searched_for(planned):
    """Derivatives do not search for labels: those rungs say so."""
    victim = nn.Sequential(nn.Conv2d(1, CLASSES, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    plan = planned(victim)
    found = places(plan)
    assert found["prior"] == "auto, naive, searched"
    assert found["true labels"] == "auto, adaptive, known"
    assert found["all together"] == "adam, informed, known"
    for name in ("pixels", "derivatives"):
        assert found[name].startswith("it cannot search for labels, and has to read them: no label can be")
    assert "under none, rung 4 searches for labels, which the gradient does not tell" in plan.lines()


def test_a_batch_has_rungs_of_its_own_and_reasons_too(planned):
    normalized = convolutional(normalized=True).train()
    found = places(planned(normalized, count=4, batch_size=2))
    assert found["closed form"] == "the victim's first layer is not linear with a bias"
    assert found["batch statistics"] == "adam, adaptive, inferred"
    assert found["image by image"] == "batch normalization in train mode mixes a batch's images"
    found = places(planned(linear(), count=4, batch_size=2))
    assert found["true labels"] == "as prior", "labels that are read off a batch come in another order"
    assert found["closed form"] == "expected a gradient of one image and one local step"
    assert found["image by image"] == "adam, informed, known"
    steps = ggl.LocalTraining(2, 0.1, batch_size=1)
    found = places(planned(linear(), count=4, batch_size=2, local=steps))
    assert found["image by image"] == "after several local steps no image has an update of its own"


class Shift(Step):
    def apply(self, gradients):
        return {name: g + torch.nan for name, g in gradients.items()}


class Unbelievable(ggl.Defense):
    """Who is told its parameters compares nothing finite."""

    name = "unbelievable"

    def protect(self, gradients, generator):
        return dict(gradients)

    def adapt(self, observed, attacker, model):
        return View(observed, (Shift(),) if attacker == "informed" else ())


def test_a_rung_that_meets_no_finite_loss_is_left_out_and_the_others_stand(audited):
    report = audited(linear(), defenses=[Unbelievable()], ladder=True)
    for name, under in ((r["name"], r["under"]) for r in report.to_dict()["ladder"]["rungs"]):
        if name in ("parameters told", "all together"):
            assert under[0]["reason"].startswith("no candidate of a search had a finite loss")
    assert [cell.rung for cell in report.cells] == [2, 3, 4, 6]


def test_it_is_said_before_how_much_is_run(audited):
    said = []
    report = audited(linear(), defenses=["none", "prune-global:0.5"], ladder=True, say=said.append)
    searched = [cell for cell in report.cells if cell.strategy != "closed form"]
    targets = sum(len(group) for cell in searched for group in cell.results.values())
    assert said[0] == (
        f"the ladder: 11 rungs, 9 attacks to run; {targets} searches, of private, sibling and noise "
        f"gradients, of {BUDGET} evaluations each: {targets * BUDGET:,} in all, the ceiling apart"
    )
    assert said[1:] == report.ladder.notes()
    assert max(r.evaluations for cell in searched for g in cell.results.values() for r in g) <= BUDGET


# Figures


def settings_of(rung):
    """Return what asks a plain audit for a rung."""
    changes = {"attackers": [rung.attacker], "label_rule": "known" if rung.told else "inferred"}
    if rung.attacker != "analytic":
        changes["strategies"] = [rung.strategy]
    return changes


def figures(cell):
    """Return what a cell has whatever stands beside it."""
    return {key: value for key, value in cell.items() if key not in ("rung", "kind", "corrected")}


def test_the_closed_form_is_told_no_label_that_it_is_to_infer(audited):
    settings = {"defenses": ["noise:30"], "attackers": ["naive", "analytic"], "strategies": ["random"]}
    report = audited(linear(), count=4, label_rule="inferred", **settings)
    searched, solved = (cell.label_accuracy for cell in report.cells)
    assert solved == searched
    assert 0.0 in solved


@pytest.mark.slow("every attack twice")
@pytest.mark.parametrize(
    ("victim", "defense", "rungs"), [(linear, "prune-global:0.5", 5), (convolutional, "noise:9", 5)]
)
def test_every_rung_has_the_figures_of_the_plain_audit(audited, victim, defense, rungs):
    report = audited(victim(), count=2, defenses=[defense], ladder=True)
    result = report.to_dict()
    assert len(result["results"]) == rungs
    for cell in result["results"]:
        rung = report.ladder.rungs[cell["rung"] - 1]
        plain = audited(victim(), count=2, defenses=[defense], **settings_of(rung)).to_dict()
        assert figures(cell) == figures(plain["results"][0]), rung.name
        assert result["ceiling"] == plain["ceiling"]


@pytest.mark.slow("twelve attacks on batches")
def test_batches_statistics_and_single_images_have_the_figures_of_plain_audits(audited):
    normalized = convolutional(normalized=True).train()
    report = audited(normalized, count=4, batch_size=2, ladder=True)
    by_name = {report.ladder.rungs[cell["rung"] - 1].name: cell for cell in report.to_dict()["results"]}
    observed = audited(
        normalized, count=4, batch_size=2, strategies=["adam"], label_rule="inferred", statistics=True
    )
    assert figures(by_name["batch statistics"]) == figures(observed.to_dict()["results"][0])
    plain = convolutional()
    report = audited(plain, count=4, batch_size=2, ladder=True)
    result = report.to_dict()
    apart = next(cell for cell in result["results"] if cell["rung"] == 11)
    kinds = {rung["rung"]: rung["kind"] for rung in result["ladder"]["rungs"]}
    assert [cell["kind"] for cell in result["results"]] == [kinds[cell["rung"]] for cell in result["results"]]
    assert apart["kind"] == "diagnostic"
    assert {kinds[row["rung"]] for row in result["worst_case"]} == {"realistic"}
    single = audited(plain, count=4, strategies=["adam"], attackers=["informed"]).to_dict()["results"][0]
    assert apart["leak_score"]["n"] == 4
    assert apart["images"] == single["images"]
    assert apart["leak_score"] == single["leak_score"]


def test_a_ladder_that_was_stopped_goes_on_to_the_same_result(audited, tmp_path):
    def stop(title, done, planned, loss):
        if title.startswith("rung 6") and done > planned / 2:
            raise KeyboardInterrupt

    settings = {"victim": convolutional(), "defenses": ["none", "prune-global:0.5"], "ladder": True}
    with pytest.raises(KeyboardInterrupt):
        audited(**settings, checkpoints=tmp_path, progress=stop)
    assert list(tmp_path.iterdir())
    found = [audited(**settings, checkpoints=folder).to_dict() for folder in (tmp_path, tmp_path / "new")]
    for result in found:
        del result["timing"]
    assert json.dumps(found[0]) == json.dumps(found[1])


# The first leak


def constructed(verdicts, *, defense="none", reason=None):
    """Return what a ladder says of rungs with these verdicts, by number; others are merged."""
    rungs = rungs_of([load_defense("none")])
    stands = {number: {"label_rule": "inferred"} for number in verdicts}
    if reason is not None:
        stands[2] = {"reason": reason}
    score = {"mean": 0.5, "low": 0.1, "high": 0.9, "n": 8}
    results = [
        {
            "defense": defense,
            "rung": number,
            "verdict": verdict,
            "corrected": {"verdict": verdict},
            "attacker": "naive",
            "strategy": "adam",
            "leak_score": score,
            "identification": score,
            "psnr": score,
            "evaluations": 60,
            "passes_per_evaluation": 1,
            "controls": {"class mean": {"identification": score, "psnr": score}},
        }
        for number, verdict in verdicts.items()
    ]
    found = [Place(k, defense, **stands.get(k, {"same_as": 4})) for k in range(2, 12)]
    return Ladder(rungs, found), results


@pytest.mark.parametrize(
    ("verdicts", "said", "held"),
    [
        (
            {3: "no leak shown", 4: "leaks", 6: "leaks", 10: "leaks"},
            "the first leak shows at rung 4, prior; every rung above it leaks too",
            4,
        ),
        (
            {3: "identifies", 4: "leaks", 6: "no leak shown", 10: "identifies"},
            "the first leak shows at rung 4, prior; above it rungs 6 and 10 show none; "
            "private images are identified at rung 3, pixels",
            None,
        ),
        (
            {2: "leaks", 3: "no leak shown", 4: "leaks", 5: "undecided", 6: "leaks", 10: "leaks"},
            "the first leak shows at rung 2, closed form; above it rungs 3 and 5 show none, and from rung 6 "
            "on all leak",
            6,
        ),
        (
            {4: "no leak shown", 8: "leaks"},
            "the first leak shows at rung 8, true labels, which is diagnostic: no realistic rung shows one",
            8,
        ),
        ({4: "no leak shown", 6: "undecided"}, "no rung shows a leak; rung 6 came to no verdict", None),
        (
            {4: "no leak shown", 6: "identifies", 8: "identifies"},
            "no rung shows a leak; private images are identified at rung 6, derivatives",
            None,
        ),
        ({4: "withheld", 6: "withheld"}, "every verdict is withheld", None),
        (
            {4: "undecided", 6: "undecided"},
            "there is no verdict on a leak: fewer than six gradients, or no interval",
            None,
        ),
    ],
)
def test_it_says_at_which_rung_the_first_leak_shows(verdicts, said, held):
    ladder, results = constructed(verdicts)
    (first,) = ladder.to_dict(results)["first_leak"]
    assert first["said"] == f"under none {said}"
    assert first["all_leak_from"] == held
    leaks = [number for number, verdict in verdicts.items() if verdict == "leaks"]
    assert first["rung"] == min(leaks, default=None)


def test_a_defense_under_which_no_rung_could_be_tried_is_said_beside_the_others():
    ladder, results = constructed({4: "leaks"})
    ladder = Ladder(ladder.rungs, [*ladder.places, Place(4, "mine", reason="no label can be read")])
    said = [first["said"] for first in ladder.to_dict(results)["first_leak"]]
    assert said == ["under none the first leak shows at rung 4, prior", "under mine no rung could be tried"]


def test_the_corrected_verdicts_decide():
    ladder, results = constructed({4: "leaks", 6: "leaks", 10: "leaks"})
    results[0]["corrected"] = {"verdict": "no leak shown"}
    found = ladder.to_dict(results)
    assert found["first_leak"][0]["rung"] == 6
    assert found["rungs"][3]["under"][0]["verdict"] == "no leak shown"
    assert "corrected for the number of rungs" in found["correction"]


# Refusals


@pytest.mark.parametrize(
    "changes",
    [
        {"strategies": ["adam"]},
        {"attackers": ["naive"]},
        {"label_rule": "inferred"},
        {"statistics": True},
    ],
)
def test_what_rungs_choose_themselves_is_refused(audited, changes):
    with pytest.raises(InputError, match="a ladder has strategies, attackers, label rules, and rungs with"):
        audited(linear(), ladder=True, **changes)


def test_a_budget_below_a_generation_is_refused_before_anything_runs(audited):
    with pytest.raises(InputError, match="a budget of 2 evaluations is below one generation"):
        audited(linear(), ladder=True, budget=2)

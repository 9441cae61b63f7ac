"""A dry run counts what the audit does: the same cells, the same searches, the same evaluations."""

import inspect
from dataclasses import fields

import pytest
import torch

import ggl
from ggl.attacks.workplace import Begun
from ggl.audits.dry_run import ForeseenCell, ForeseenWork, Prospect, foresee
from ggl.audits.request import AuditRequest
from ggl.base.errors import InputError

SMALL = {"budget": 32, "ceiling_budget": 16, "seed": 0}


def victim(name="mlp"):
    return ggl.load_victim(name, in_channels=1, num_classes=10, image_size=32, seed=0)


@pytest.fixture
def asked(data, prior):
    def ask(**changes):
        images, labels = data.images[:2], data.labels[:2]
        return {"victim": victim(), "images": images, "labels": labels, "prior": prior, **SMALL, **changes}

    return ask


def counted(asked):
    """Run the audit; return its cells, each with the evaluations of all its searches, and the ceiling's."""
    ended = {}
    report = ggl.audit(**asked, progress=lambda title, done, *_: ended.update({title: done}))
    cells = [
        ((c.defense, c.attacker, c.strategy), sum(r.evaluations for kind in c.results.values() for r in kind))
        for c in report.cells
    ]
    return report, cells, ended.get("ceiling", 0)


CASES = {
    "attackers and strategies": {
        "defenses": ["none", "prune:0.99"],
        "attackers": ["all"],
        "strategies": ["auto", "adam:starts=2,tune=0.001"],
    },
    "batches": {"batch_size": 2, "strategies": ["cma-es:population=16"], "defenses": ["clip:1"]},
    "a contrast on pixels": {"strategies": ["ig"]},
    "a ladder": {"ladder": True},
    "a known ceiling": {"ceiling": torch.zeros(2, 1, 32, 32)},
}


@pytest.mark.filterwarnings("ignore::ggl.attacks.strategy_choice.StrategyWarning")
@pytest.mark.parametrize("case", CASES)
def test_cells_and_evaluations_are_those_of_the_run(asked, case):
    changes = asked(**CASES[case])
    found = foresee(AuditRequest(**changes))
    report, cells, ceiling = counted(changes)
    foreseen = [((c.defense, c.attacker, c.strategy), c.work.evaluations) for c in found.cells]
    assert foreseen == cells
    assert found.ceiling.evaluations == ceiling
    assert found.evaluations == sum(n for _, n in cells) + ceiling
    assert [c.work.searches for c in found.cells] == [
        sum(map(len, cell.results.values())) for cell in report.cells
    ]


def test_a_budget_that_no_generation_divides_is_the_most_that_is_spent(asked):
    changes = asked(budget=50, strategies=["cma-es"])
    found = foresee(AuditRequest(**changes))
    _, [(_, spent)], _ = counted(changes)
    assert found.cells[0].work.evaluations == 50 * 6
    assert spent == 48 * 6


def test_nothing_is_searched_to_its_end_and_nothing_is_waited_for(asked, monkeypatch):
    monkeypatch.setattr(Begun, "results", lambda self: pytest.fail("searched"))
    found = foresee(AuditRequest(**asked(budget=100_000, ceiling_budget=100_000, strategies=["random"])))
    assert found.cells[0].work.evaluations == 600_000
    assert found.seconds > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 5}, "below one generation of 16"),
        ({"batch_size": 3}, "whole batches of 3"),
        ({"victim": victim("lenet"), "attackers": ["analytic"]}, "first layer is linear"),
        ({"attackers": ["naiv"]}, "did you mean 'naive'"),
        ({"ladder": True, "attackers": ["all"]}, "leave these out"),
    ],
)
def test_what_the_run_refuses_is_refused_in_the_same_words(asked, changes, message):
    with pytest.raises(InputError, match=message) as foreseen:
        foresee(AuditRequest(**asked(**changes)))
    with pytest.raises(InputError) as refused:
        ggl.audit(**asked(**changes))
    assert str(foreseen.value) == str(refused.value)


def test_a_request_is_the_arguments_of_the_audit_with_the_same_defaults():
    given = inspect.signature(ggl.audit).parameters
    how = {"truth", "force", "say", "checkpoints", "workers", "progress"}
    assert {field.name for field in fields(AuditRequest)} == {*given} - how
    defaults = {name: given[name].default for name in given if name not in how}
    required = {name for name, default in defaults.items() if default is inspect.Parameter.empty}
    assert required == {"victim", "images", "labels", "prior"}
    for field in fields(AuditRequest):
        if field.name not in required:
            assert field.default == defaults[field.name], field.name


@pytest.mark.parametrize("strategy", ["turbo:population=8,initial=16", "bo:population=8,initial=16"])
def test_what_a_model_learns_makes_it_slower_so_that_its_time_is_a_least_one(asked, strategy):
    found = foresee(AuditRequest(**asked(budget=64, strategies=[strategy, "random"])))
    assert [cell.work.at_least for cell in found.cells] == [True, False]
    modeled, plain = (sum(cell.work.seconds) for cell in found.cells)
    assert modeled > 2 * plain


def test_workers_share_the_jobs_in_their_order():
    ceiling, work = ForeseenWork(2, 20, [1.0, 1.0]), ForeseenWork(6, 60, [4.0, 2.0])
    cells = [ForeseenCell("none", "naive", "adam", work)]
    assert [Prospect(cells, ceiling, 0, count).seconds for count in (1, 2, 4)] == [8.0, 5.0, 4.0]
    assert Prospect(cells, ceiling, 0, 1).evaluations == 80

"""No measured cell exceeds what its defense's proof allows without a flag; when the flag is raised."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import CELL, made_records, with_figures

from ggl.audits.allowances import EXCESSIVE, RANKS, excess
from ggl.benchmarks.checks import flags, guarantee_checks
from ggl.benchmarks.checks.guarantee_checks import allowance_of, beyond_guarantee, shares_within
from ggl.benchmarks.sweeps.aggregate import groups_of
from ggl.benchmarks.sweeps.export import read_csv
from ggl.costs.guarantees import guarantee
from ggl.defenses.catalog import defenses
from ggl.defenses.privacy import FedCDP

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REAL = replace(CELL, prior="fashion-dcgan32", data="fashion-mnist-heldout")


def found_of(defense, ranks, base=REAL, seeds=1):
    records = made_records((defense,), ("cma-es",), len(ranks) // seeds, seeds, base=base)
    ranked = [with_figures(r, {"attack_rank": k}) for r, k in zip(records, ranks, strict=True)]
    (group,) = groups_of(ranked)
    return beyond_guarantee(group), group


class PublishedFedCDP(FedCDP):
    """Fed-CDP as it was accounted for: the sensitivity of all layers together taken for that of one."""

    def sensitivity_factor(self, layers):
        return 1.0


@pytest.fixture
def published(monkeypatch):
    allowance_of.cache_clear()
    monkeypatch.setitem(defenses._entries, "published", PublishedFedCDP)
    return "published"


def test_the_published_accounting_of_fed_cdp_is_doubted_and_the_honest_one_is_not(published, monkeypatch):
    """Six of twenty first, of 144 layers at σ = 6: allowed are 0.0154 and 0.372; see tests/audits."""
    ranks = [1] * 6 + [20] * 14
    flag, _ = found_of(published, ranks)
    assert (flag.name, flag.severity, flag.cells) == ("beyond-guarantee", "doubt", 20)
    assert "rank first at a rate of 0.3 over 20 images" in flag.message
    assert "where the defense's proof allows any attacker 0.0154 (p = " in flag.message
    monkeypatch.setattr(guarantee_checks, "_layers", lambda *_: 144)
    allowance_of.cache_clear()
    assert found_of("fed-cdp:4,6", ranks)[0] is None


def test_the_victims_own_layers_are_counted():
    """LeNet has eight tensors."""
    allowance_of.cache_clear()
    assert allowance_of(replace(REAL, defense="fed-cdp:4,6")).mu == pytest.approx(8**0.5 / 6)


def test_ranks_within_ten_are_asked_too():
    flag, _ = found_of("dp-sgd:1,20", [5] * 20)
    assert "rank within 10 at a rate of 1" in flag.message


def test_of_several_seeds_the_mean_rate_counts_and_not_the_median_rank():
    """Two of three seeds first, of every image: the median is first always, the rate two thirds."""
    flag, group = found_of("dp-sgd:1,0.35", ([1] * 8 + [1] * 8 + [90] * 8), seeds=3)
    assert group.identification()["identification"].mean == 1.0
    assert shares_within(group, 1) == [pytest.approx(2 / 3)] * 8
    assert flag is None


@pytest.mark.parametrize("defense", ["none", "noise:0.2", "dynamic-dp:linear,clipping=median"])
def test_what_has_no_proof_is_not_asked(defense):
    assert found_of(defense, [1] * 8)[0] is None


def test_a_victim_that_is_not_at_hand_is_a_note():
    allowance_of.cache_clear()
    flag, _ = found_of("fed-cdp:4,6", [1] * 8, base=replace(REAL, victim="no.such:Victim"))
    assert flag.severity == "note"
    assert "could not be computed here" in flag.message
    # The proof of DP-SGD needs none.
    assert found_of("dp-sgd:1,6", [1] * 8, base=replace(REAL, victim="no.such:Victim"))[0].severity == "doubt"


@pytest.mark.parametrize("store", ["cpu", "reproduce-ggl"])
def test_no_cell_of_the_committed_stores_exceeds_its_bound_without_a_flag(store):
    groups = [g for g in groups_of(read_csv(RESULTS / store / "cells.csv")) if g.n]
    flagged = {flag.group for flag in flags(groups) if flag.name == "beyond-guarantee"}
    proved = 0
    for group in groups:
        allowance = allowance_of(group.cell)
        for rank in RANKS.values():
            most = allowance.most(rank / 100)
            proved += most is not None
            within = most is None or excess(shares_within(group, rank), most) >= EXCESSIVE
            assert within or group.cell in flagged
    assert proved or store != "cpu"


def test_nor_does_one_of_the_table_of_all_defenses():
    """LeNet, eight tensors, one of a hundred candidates."""
    proved = {}
    for defense, cells in json.loads((RESULTS / "defenses.json").read_text("utf-8")).items():
        name = defense.removesuffix(", mlp")
        most = guarantee(name, layers=8).identification(100)
        if most is not None:
            proved[name] = most
            first = [[float(image["rank"] == 1) for image in cell["images"]] for cell in cells]
            assert all(excess(shares, most) >= EXCESSIVE for shares in first), defense
    assert list(proved) == [
        "dp-sgd:4,0.5",
        "fed-cdp:4,0.5",
        "dynamic-dp:linear",
        "clip:4+noise:0.1+prune:0.9",
    ]

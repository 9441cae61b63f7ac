"""Groups of cells: against an audit's own figures, a slow computation, and what must not change them."""

import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from made_records import CELL, failed, made_records, skipped, with_figures

import ggl
from ggl.benchmarks.sweeps.aggregate import CONTROLS, CellGroup, groups_of
from ggl.benchmarks.sweeps.records import METRICS, Record, figure_name
from ggl.datasets.picking import pick_private
from ggl.measures.statistics import bootstrap_ratio, paired_test


@pytest.fixture(scope="module")
def report():
    data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
    victim = ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)
    rows = pick_private(data.labels, 6, seed=0)
    return ggl.audit(
        victim,
        data.images[rows],
        data.labels[rows],
        prior=prior,
        strategies=["random"],
        budget=48,
        ceiling_budget=48,
    )


def records_of(report):
    """One record an image of the report's first cell, as a runner would write it."""
    (cell,) = report.cells
    scores = {"attack": cell.attack, "ceiling": report.ceiling}
    scores |= {name.replace(" ", "_"): control for name, control in cell.controls.items()}
    records = []
    for i in range(len(report.images)):
        figures = {
            figure_name(source, metric): float(each.values[metric][i])
            for source, each in scores.items()
            for metric in METRICS
            if metric in each.values
        }
        figures |= {figure_name(source, "rank"): int(each.ranks[i]) for source, each in scores.items()}
        figures["decoys"] = int(cell.attack.decoys[i])
        records.append(Record(replace(CELL, image=i, images=6), "ok", figures=figures))
    return records


def one_group(records) -> CellGroup:
    (group,) = groups_of(records)
    return group


def one_defense(**sizes):
    return made_records(("none",), ("cma-es",), **sizes)


def test_a_group_of_one_seed_says_what_the_audit_says(report):
    group, (cell,) = one_group(records_of(report)), report.to_dict()["results"]
    assert group.n == 6
    leak = cell["leak_score"]
    assert group.leak.to_dict() == {**leak, "control": leak["control"].replace(" ", "_")}
    assert group.verdict == cell["verdict"]
    found = {name: interval.to_dict() for name, interval in group.identification().items()}
    assert found == {name: cell[name] for name in found}
    assert len(found) == 3
    for metric in ("mse", "psnr", "ssim"):
        assert group.mean("attack", metric).to_dict() == cell[metric]


def test_controls_score_as_in_the_audit(report):
    group, (cell,) = one_group(records_of(report)), report.to_dict()["results"]
    scores = group.control_scores()
    assert set(scores) == set(CONTROLS)
    for name, interval in scores.items():
        expected = cell["controls"][name.replace("_", " ")]["leak_score"]
        assert interval.to_dict() == {key: expected[key] for key in ("mean", "low", "high", "n")}


def test_the_leak_score_over_seeds_is_the_ratio_of_sums_of_image_means():
    records = one_defense(images=7, seeds=3)
    by_image = {i: [r.figures for r in records if r.cell.image == i] for i in range(7)}
    means = {
        source: [fmean(f[f"{source}_mse"] for f in by_image[i]) for i in range(7)]
        for source in ("attack", "ceiling", *CONTROLS)
    }
    control = min(CONTROLS, key=lambda name: fmean(means[name]))
    top = sum(c - a for c, a in zip(means[control], means["attack"], strict=True))
    bottom = sum(c - b for c, b in zip(means[control], means["ceiling"], strict=True))
    leak = one_group(records).leak
    assert leak.control == control == "class_mean"
    assert leak.interval.mean == pytest.approx(top / bottom)
    assert leak.p_value == paired_test(means["attack"], means[control])
    numerators = np.array(means[control]) - np.array(means["attack"])
    expected = bootstrap_ratio(numerators, np.array(means[control]) - np.array(means["ceiling"]))
    assert (leak.interval.low, leak.interval.high) == pytest.approx((expected.low, expected.high))


def test_seeds_are_no_further_images():
    """The same figures under three seeds say what they say under one."""
    once = one_defense(images=8)
    thrice = [replace(r, cell=replace(r.cell, seed=s)) for s in range(3) for r in once]
    one, three = one_group(once), one_group(thrice)
    assert (one.n, three.n, three.seeds) == (8, 8, 3)
    assert three.leak.p_value == one.leak.p_value
    assert three.leak.interval.low == pytest.approx(one.leak.interval.low)
    assert three.identification() == one.identification()


def test_the_order_of_records_is_of_no_account():
    records = made_records(images=6, seeds=2)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    forth = {group.cell: group for group in groups_of(records)}
    back = {group.cell: group for group in groups_of(shuffled)}
    assert forth.keys() == back.keys()
    for cell, group in forth.items():
        assert back[cell].values("attack", "mse") == group.values("attack", "mse")
        assert (back[cell].leak, back[cell].verdict) == (group.leak, group.verdict)


def test_groups_differ_in_all_but_image_and_seed():
    records = made_records(("none", "noise:0.2"), ("cma-es", "random"), 3, 2, attackers=("naive", "adaptive"))
    groups = groups_of(records)
    assert [len(group.records) for group in groups] == [6] * 8
    asked = [(g.cell.defense, g.cell.attacker, g.cell.strategy) for g in groups]
    assert asked[:2] == [("none", "naive", "cma-es"), ("none", "naive", "random")]
    assert len(set(asked)) == 8


def test_an_image_with_a_failed_cell_counts_under_no_seed():
    records = one_defense(images=6, seeds=2)
    group = one_group([failed(records[0]), *records[1:]])
    assert (group.n, group.count("failed"), group.count("ok")) == (5, 1, 11)
    assert list(group.per_image("attack", "mse")) == [1, 2, 3, 4, 5]


def test_an_image_that_lacks_a_seed_waits_for_it():
    group = one_group(one_defense(images=6, seeds=2)[:-1])
    assert group.n == 5


def test_a_skipped_cell_takes_no_image_out():
    """What was left out by design is as if never asked for; a failure is not."""
    records = one_defense(images=6, seeds=2)
    fewer = [skipped(r) if r.cell.seed == 1 else r for r in records]
    group = one_group(fewer)
    assert (group.n, group.seeds, group.count("skipped")) == (6, 1, 6)
    assert group.values("attack", "mse") == one_group(records[:6]).values("attack", "mse")


def test_a_group_without_an_image_says_nothing():
    group = one_group([failed(record) for record in one_defense(images=6)])
    assert (group.n, group.leak, group.verdict) == (0, None, "undecided")
    assert (group.mean("attack", "psnr"), group.identification(), group.control_scores()) == (None, {}, {})
    assert not group.has("mse")


def test_a_metric_that_one_cell_lacks_has_no_mean():
    records = made_records(("none",), ("cma-es",), 6, lpips=True)
    assert one_group(records).mean("attack", "lpips").n == 6
    lacking = one_group([with_figures(records[0], {"attack_lpips": None}), *records[1:]])
    assert not lacking.has("lpips")
    assert lacking.has("lpips", "ceiling")
    assert lacking.mean("attack", "lpips") is None
    with pytest.raises(KeyError, match=r"attack_lpips of cell [0-9a-f]{16}"):
        lacking.values("attack", "lpips")


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("source", ["attack", "ceiling", "noise"])
def test_without_every_headline_error_there_is_no_leak_score(source, value):
    records = one_defense(images=6)
    group = one_group([with_figures(records[0], {f"{source}_mse": value}), *records[1:]])
    assert (group.n, group.leak, group.verdict) == (6, None, "undecided")
    assert group.control_scores() == {}
    assert bool(group.identification()) == (source != "attack")


@pytest.mark.parametrize(("ranks", "expected"), [((1, 1, 5), 1), ((1, 2), 2), ((1, 4), 3), ((7, 7, 7), 7)])
def test_a_rank_is_the_median_over_seeds_rounded_up(ranks, expected):
    records = one_defense(images=6, seeds=len(ranks))
    ranked = [with_figures(r, {"attack_rank": ranks[r.cell.seed]}) for r in records]
    assert one_group(ranked).scores("attack").ranks.tolist() == [expected] * 6


def test_the_strongest_control_scores_zero_and_no_other_more():
    scores = one_group(one_defense(images=8)).control_scores()
    assert scores["class_mean"].mean == 0
    assert all(scores[name].mean < 0 for name in ("sibling", "noise", "prior"))


def test_where_the_ceiling_is_no_better_than_the_control_no_score_is_defined():
    group = one_group(made_records(("none",), ("cma-es",), 8, ceiling=0.06))
    assert math.isnan(group.leak.interval.mean)
    assert math.isnan(group.control_scores()["sibling"].mean)


def first(records, numbers, rank=50):
    """Return records whose attack ranks these images first, and every control `rank`."""
    figures = {figure_name(control, "rank"): rank for control in CONTROLS}
    return [
        with_figures(record, {**figures, "attack_rank": 1 if record.cell.image in numbers else 40})
        for record in records
    ]


def test_people_are_counted_as_in_an_audit(report):
    group = one_group(records_of(report))
    assert group.recognizable == report.to_dict()["results"][0]["people"]["recognizable"]


def test_what_a_control_ranks_first_too_is_not_recognizable():
    assert one_group(first(one_defense(images=8), {0, 1, 2})).recognizable["at_least"] == 2
    assert one_group(first(one_defense(images=8), {0, 1, 2}, rank=1)).recognizable["at_least"] == 0


def test_the_median_of_several_seeds_is_first_by_chance_up_to_twice_as_often():
    found = one_group(first(one_defense(images=8, seeds=3), {0, 1, 2})).recognizable
    assert found["by_chance"] == pytest.approx(8 * 0.02)
    assert one_group([failed(record) for record in one_defense(images=2)]).recognizable is None

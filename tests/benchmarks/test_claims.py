"""Every rule with figures that satisfy it and figures that violate it; too few images decide nothing."""

from dataclasses import replace
from itertools import product

import pytest
from made_records import CELL, CLASS_MEAN, failed, made_record, made_records, with_figures

from ggl.base.errors import InputError, UnknownNameError
from ggl.benchmarks.reproduce.claims import RULES, Check, check_values
from ggl.benchmarks.reproduce.groups import RowGroup
from ggl.benchmarks.reproduce.judging import Finding, judge, verdict_of
from ggl.benchmarks.reproduce.measurements.base import Row
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.measures.leakage import HEADLINE

SPREAD = (0.3, -0.2, 0.1, -0.1, 0.25, -0.3, 0.05, 0.15, -0.25, 0.0)
"""Scatter over images, in dB."""


def group(values, source="attack", metric="psnr_signed", missing=()):
    """Return a group with these figures, one an image; those of `missing` failed."""
    records = []
    for image, value in enumerate(values):
        record = made_record(replace(CELL, image=image, images=len(values)), 0.02)
        record = with_figures(record, {metric if metric == "loss" else f"{source}_{metric}": value})
        records.append(failed(record) if image in missing else record)
    return CellGroup(replace(CELL, image=0, seed=0), tuple(records))


def shifted(by, factor=1.0):
    """Return a second side: the first one's figures, 12 dB and their scatter, plus `by` and more scatter."""
    return [12 + x + by + factor * y for x, y in zip(SPREAD, reversed(SPREAD), strict=True)]


BASE = [12 + x for x in SPREAD]


def outcome(check, a, b=None):
    groups = {"a": group(a, metric=check.metric)} | (
        {} if b is None else {"b": group(b, metric=check.metric)}
    )
    return judge(check, groups)


@pytest.mark.parametrize(
    ("rule", "tolerance", "a", "expected", "why"),
    [
        ("better", None, shifted(1), "holds", "a is better"),
        ("better", None, shifted(0), "fails", "no difference is shown"),
        ("better", None, shifted(-1), "fails", "the opposite is seen"),
        ("within", 1.0, shifted(0), "holds", "the interval lies within the tolerance"),
        ("within", 1.0, shifted(2), "fails", "the interval lies outside the tolerance"),
        ("within", 1.0, shifted(-2), "fails", "the interval lies outside the tolerance"),
        ("within", 1.0, shifted(1), "undecided", "the interval crosses the tolerance"),
        ("no_worse", 1.0, shifted(0), "holds", "no lag beyond the tolerance"),
        ("no_worse", 1.0, shifted(3), "holds", "no lag beyond the tolerance"),
        ("no_worse", 1.0, shifted(-3), "fails", "it lags by more"),
        ("no_worse", 1.0, shifted(-1), "undecided", "a lag is not excluded"),
        ("no_better", 1.0, shifted(0), "holds", "no lead beyond the tolerance"),
        ("no_better", 1.0, shifted(-3), "holds", "no lead beyond the tolerance"),
        ("no_better", 1.0, shifted(0.6), "fails", "a is better"),
        ("no_better", 1.0, shifted(0.2, factor=10), "undecided", "a lead is not excluded"),
    ],
)
def test_rule_of_two_sides(rule, tolerance, a, expected, why):
    found = outcome(Check(rule, "a", "b", tolerance=tolerance), a, BASE)
    assert (found.outcome, found.why, found.n) == (expected, why, 10)
    assert found.difference.mean == pytest.approx(sum(a) / 10 - sum(BASE) / 10)


@pytest.mark.parametrize(("value", "expected"), [(12.1, "holds"), (15.0, "fails"), (13.05, "undecided")])
def test_near_a_reported_value(value, expected):
    found = outcome(Check("near", "a", value=value, tolerance=1.0), BASE)
    assert (found.outcome, found.p_value, found.b) == (expected, None, None)


@pytest.mark.parametrize("metric", ["mse", "lpips", "feature_distance", "loss", "rank"])
def test_less_is_better_of_errors(metric):
    low, high = [0.01 + x / 100 for x in SPREAD], [0.02 + x / 100 for x in SPREAD]
    assert outcome(Check("better", "a", "b", metric=metric), low, high).outcome == "holds"
    assert outcome(Check("better", "a", "b", metric=metric), high, low).why == "the opposite is seen"
    assert outcome(Check("no_better", "a", "b", metric=metric, tolerance=0.1), low, high).outcome == "fails"
    assert outcome(Check("no_better", "a", "b", metric=metric, tolerance=0.1), high, low).outcome == "holds"


def test_tolerance_of_an_error_is_a_share_of_the_second_side():
    a, b = [0.0104 + x / 1e4 for x in SPREAD], [0.01 + x / 1e4 for x in SPREAD]
    check = Check("within", "a", "b", metric="mse", tolerance=0.05)
    assert outcome(check, a, b).outcome == "holds"
    assert outcome(replace(check, tolerance=0.03), a, b).outcome == "fails"


def test_p_value_is_the_exact_sign_flip_one():
    differences = [0.5, -0.1, 0.4, 0.3, 0.2, 0.6, 0.35]
    flips = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=7)
    ]
    as_far = sum(abs(total) >= sum(differences) - 1e-9 for total in flips)
    found = outcome(Check("better", "a", "b"), [12 + d for d in differences], [12.0] * 7)
    assert found.p_value == pytest.approx(as_far / len(flips))


def test_leaks_follows_the_leak_score():
    leaking = made_records(("none",), ("cma-es",), images=10)
    level = made_records(("none",), ("cma-es",), images=10, attack=lambda _: CLASS_MEAN * 1.2)
    for records, expected in ((leaking, "holds"), (level, "fails")):
        found = judge(Check("leaks", "a"), {"a": CellGroup(records[0].cell, tuple(records))})
        assert (found.outcome, found.why) == (expected, "leak score against class mean")


def test_leaks_is_undecided_where_the_ceiling_is_no_better_than_the_control():
    records = made_records(("none",), ("cma-es",), images=10, ceiling=CLASS_MEAN * 2)
    found = judge(Check("leaks", "a"), {"a": CellGroup(records[0].cell, tuple(records))})
    assert found.outcome == "undecided"


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"ranks", "by_class"}))
def test_five_images_decide_nothing(rule):
    parts = {
        "better": {"b": "b"},
        "leaks": {},
        "near": {"value": 30.0, "tolerance": 1.0},
        "above": {"value": 1.0},
        "below": {"value": 100.0},
    }
    check = Check(rule, "a", **parts.get(rule, {"b": "b", "tolerance": 1.0}))
    found = outcome(check, [x + 9 for x in BASE[:5]], BASE[:5])
    assert (found.outcome, found.n) == ("undecided", 5)
    assert found.why == "5 images, and fewer than 6 show nothing"
    assert verdict_of([found]) == "undecided"


def test_a_group_that_was_not_run_leaves_a_check_undecided():
    assert judge(Check("better", "a", "b"), {"a": group(BASE)}).why == "no ok cell of b"
    nothing = group(BASE, missing=range(10))
    assert judge(Check("leaks", "a"), {"a": nothing}).why == "no ok cell of a"


def test_a_metric_that_is_not_at_hand_is_not_testable():
    check = Check("better", "a", "b", metric="lpips")
    found = outcome(check, [None, *BASE[1:]], BASE)
    assert (found.outcome, found.why) == ("not testable", "lpips is not at hand")


def test_only_images_of_both_sides_are_compared():
    groups = {"a": group([*shifted(1)[:9], 99.0], missing=[0]), "b": group(BASE, missing=[9])}
    found = judge(Check("better", "a", "b"), groups)
    assert (found.n, found.outcome) == (8, "holds")
    assert found.difference.mean == pytest.approx(sum(shifted(1)[1:9]) / 8 - sum(BASE[1:9]) / 8)


def test_controls_of_the_same_cells_are_a_side():
    records = made_records(("none",), ("cma-es",), images=10)
    groups = {"a": CellGroup(records[0].cell, tuple(records))}
    found = judge(Check("no_better", "a", "a/noise", metric=HEADLINE, tolerance=0.1), groups)
    assert found.outcome == "fails"
    assert found.b.mean == pytest.approx(sum(r.figures["noise_mse"] for r in records) / 10)


def test_a_seed_is_no_further_image():
    records = made_records(("none",), ("cma-es",), images=7, seeds=3)
    groups = {"a": CellGroup(records[0].cell, tuple(records))}
    found = judge(Check("near", "a", metric="mse", value=0.018, tolerance=0.5), groups)
    assert found.n == 7
    assert found.a.mean == pytest.approx(sum(r.figures["attack_mse"] for r in records) / 21)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["holds", "holds"], "reproduced"),
        (["holds", "fails"], "partly"),
        (["fails", "fails"], "not"),
        (["holds", "undecided"], "undecided"),
        (["fails", "undecided"], "undecided"),
        (["not testable", "holds"], "reproduced"),
        (["not testable", "fails"], "not"),
        (["not testable"], "not testable here"),
        ([], "not testable here"),
    ],
)
def test_verdict(outcomes, verdict):
    assert verdict_of([Finding(outcome, "") for outcome in outcomes]) == verdict


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (Check("better", "a"), "x: rule 'better' takes a 'b'"),
        (Check("leaks", "a", "b"), "x: rule 'leaks' takes no 'b'"),
        (Check("within", "a", "b"), "x: rule 'within' takes a 'tolerance'"),
        (Check("better", "a", "b", tolerance=1.0), "x: rule 'better' takes no 'tolerance'"),
        (Check("near", "a", tolerance=1.0), "x: rule 'near' takes a 'value'"),
        (Check("within", "a", "b", tolerance=-1.0), "x: expected a tolerance above 0, found -1"),
        (Check("above", "a"), "x: rule 'above' takes a 'value'"),
        (
            Check("better", "a", "b", trained=("c",)),
            "x: expected 'trained' and 'floor' together, found one of them",
        ),
    ],
)
def test_a_check_that_does_not_fit_its_rule(check, message):
    with pytest.raises(InputError) as error:
        check_values(check, "x")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("check", "beginning"),
    [
        (Check("beter", "a", "b"), "no x: rule is named 'beter'; did you mean 'better'?"),
        (Check("better", "a", "b/noize"), "no x: source is named 'noize'; did you mean 'noise'?"),
    ],
)
def test_unknown_names_in_a_check(check, beginning):
    with pytest.raises(UnknownNameError) as error:
        check_values(check, "x")
    assert str(error.value).startswith(beginning)


def rows(values, metric="accuracy", over="seeds"):
    """Return a group of a measurement's rows, one a value."""
    return RowGroup(tuple(Row({}, unit, {metric: value}) for unit, value in enumerate(values)), over)


@pytest.mark.parametrize(
    ("rule", "a", "expected"),
    [
        ("no_worse", [0.80, 0.81, 0.79], "holds"),
        ("no_worse", [0.70, 0.71, 0.69], "fails"),
        ("no_worse", [0.80, 0.70, 0.79], "undecided"),
        ("no_worse", [0.80, 0.81], "undecided"),
        ("within", [0.801, 0.811, 0.791], "holds"),
        ("within", [0.90, 0.91, 0.89], "fails"),
    ],
)
def test_trainings_are_compared_by_students_interval_over_seeds(rule, a, expected):
    """A tolerance of an accuracy is a difference of accuracies, not a share of one."""
    check = Check(rule, "a", "b", metric="accuracy", tolerance=0.02)
    assert judge(check, {"a": rows(a), "b": rows([0.80, 0.81, 0.79])}).outcome == expected


def test_three_seeds_show_a_difference_that_two_do_not():
    check = Check("better", "a", "b", metric="accuracy")
    groups = {"a": rows([0.9, 0.91, 0.89]), "b": rows([0.8, 0.81, 0.79])}
    assert judge(check, groups).outcome == "holds"
    assert judge(check, {"a": groups["b"], "b": groups["a"]}).why == "the opposite is seen"
    few = judge(check, {"a": rows([0.9, 0.91]), "b": rows([0.8, 0.81])})
    assert (few.outcome, few.why) == ("undecided", "2 seeds, and fewer than 3 show nothing")


@pytest.mark.parametrize(("accuracy", "expected"), [(0.49, "undecided"), (0.51, "holds")])
def test_what_did_not_train_judges_nothing(accuracy, expected):
    check = Check("no_worse", "a", "b", metric="accuracy", tolerance=0.02, trained=("b",), floor=0.5)
    found = judge(check, {"a": rows([accuracy] * 3), "b": rows([accuracy] * 3)})
    assert found.outcome == expected
    if expected == "undecided":
        assert found.why == "b did not train: accuracy 0.49, expected 0.5 or more"


def test_a_figure_that_is_computed_needs_no_sample():
    groups = {"a": rows([0.45], "epsilon", "nothing"), "b": rows([0.66], "epsilon", "nothing")}
    assert judge(Check("better", "a", "b", metric="epsilon"), groups).outcome == "holds"
    assert judge(Check("better", "b", "a", metric="epsilon"), groups).outcome == "fails"
    for rule, outcome in (("above", "fails"), ("below", "holds")):
        assert judge(Check(rule, "a", metric="epsilon", value=0.5), groups).outcome == outcome
    near = Check("near", "a", metric="epsilon", value=0.453, tolerance=0.01)
    assert judge(near, groups).outcome == "holds"


@pytest.mark.parametrize(("sign", "expected"), [(1, "holds"), (-1, "fails")])
def test_ranks_asks_for_a_correlation_above_the_value(sign, expected):
    points = [
        Row({}, image, {"bound": 1.0 * image + level, "measured": sign * (image + level + 0.1 * (image % 3))})
        for image in range(8)
        for level in (0, 10, 20)
    ]
    group = RowGroup(tuple(points), "images")
    check = Check("ranks", "a", "a", metric="bound:measured", value=0.5)
    assert judge(check, {"a": group}).outcome == expected
    cut = RowGroup(tuple(point for point in points if point.unit < 5), "images")
    assert judge(check, {"a": cut}).outcome == "undecided"


@pytest.mark.parametrize(("step", "expected"), [(1.0, "holds"), (0.0, "fails")])
def test_classes_are_compared_by_their_images(step, expected):
    points = [
        Row({}, i, {"bound": step * (i % 3) + 0.1 * ((7 * i) % 5), "label": float(i % 3)}) for i in range(12)
    ]
    found = judge(Check("by_class", "a", metric="bound"), {"a": RowGroup(tuple(points), "images")})
    assert (found.outcome, found.n) == (expected, 12)
    alone = RowGroup(tuple(points[:5]), "images")
    assert judge(Check("by_class", "a", metric="bound"), {"a": alone}).outcome == "undecided"
    assert judge(Check("by_class", "a", metric="exact"), {"a": alone}).outcome == "not testable"


def test_images_of_other_sets_are_not_compared():
    other = CellGroup(CELL, tuple(replace(r, private_image="another") for r in group(BASE).records))
    found = judge(Check("better", "a", "b"), {"a": group(BASE), "b": other})
    assert (found.outcome, found.why) == ("undecided", "the two sides are of other images")


def test_success_is_an_ssim_of_six_tenths():
    values = [0.59, 0.6, 0.9, 0.1, 0.7, 0.8, 0.2, 0.65]
    found = judge(Check("above", "a", metric="success", value=0.1), {"a": group(values, metric="ssim")})
    assert found.a.mean == 5 / 8
    assert found.outcome == "holds"


@pytest.mark.parametrize(
    ("found", "images", "value", "expected"),
    [(0, 10, 0.1, "undecided"), (0, 29, 0.1, "holds"), (10, 10, 0.8, "undecided"), (4, 10, 0.1, "fails")],
)
def test_none_of_ten_images_does_not_show_a_share_below_a_tenth(found, images, value, expected):
    """A share's interval is the exact one: without scatter a mean's would be a point."""
    values = [0.9] * found + [0.1] * (images - found)
    finding = judge(Check("below", "a", metric="success", value=value), {"a": group(values, metric="ssim")})
    assert finding.outcome == expected
    assert finding.a.low < finding.a.high

"""Doubt flags: each is tripped by what it is for, a clean store trips none, and a page explains all."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_records import CELL, failed, made_records, skipped, with_figures

from ggl.benchmarks.checks import CHECKS, Flag, flags, severest
from ggl.benchmarks.checks.courses import Course, slowing
from ggl.benchmarks.checks.error_checks import adaptive_worse
from ggl.benchmarks.sweeps.aggregate import groups_of
from ggl.benchmarks.sweeps.records import CurvePoint

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def flags_of(records):
    return flags(groups_of(records))


def one_defense(images=8, **made):
    return made_records(("none",), ("cma-es",), images, **made)


def with_all(records, figures):
    return [with_figures(record, figures) for record in records]


def with_curve(record, loss, mse):
    """The record with a curve of eight halvings, its ends as the figures say."""
    points = range(8)
    found = [CurvePoint(2000 >> (7 - k), 0.1 * k, loss(k), mse(k)) for k in points]
    return replace(with_figures(record, {"loss": loss(7), "attack_mse": mse(7)}), curve=(*found,))


def by_strategy(cma_es, other):
    return lambda cell: cma_es if cell.strategy == "cma-es" else other


def by_attacker(errors):
    return lambda cell: errors[cell.attacker]


def zero():
    records = one_defense()
    return [
        with_figures(records[0], {"loss": 0.0}),
        with_figures(records[1], {"match_of_attack": -6e-8}),
        with_figures(records[2], {"match_of_attack": 1.0}),
        with_figures(records[3], {"loss": None}),
        *records[4:],
    ]


def shared():
    records = one_defense()
    own = replace(records[0], sibling_image=records[0].private_image)
    return [own, replace(records[1], sibling_image=records[5].private_image), *records[2:]]


def cut_short():
    """Every doubling brings as much as the one before, of loss and of error."""
    return [with_curve(r, lambda k: 0.03 - 0.002 * k, lambda k: 0.04 - 0.003 * k) for r in one_defense()]


def overfitted():
    """The loss falls and converges; the error stays where it was."""
    return [
        with_curve(r, lambda k: 0.3 + 0.1 * 0.2**k, lambda k, i=r.cell.image: 0.02 + 1e-4 * (-1) ** (i + k))
        for r in one_defense()
    ]


TRIPPED = {
    "objective-zero": (zero, "doubt", 4),
    "shared-image": (shared, "doubt", 2),
    "failed-cells": (lambda: [failed(r) if i < 2 else r for i, r in enumerate(one_defense())], "doubt", 2),
    "ceiling-below-attack": (lambda: one_defense(ceiling=0.02), "doubt", 8),
    "private-not-matched": (lambda: with_all(one_defense(), {"match_of_private": 2e-4}), "doubt", 8),
    "beyond-guarantee": (lambda: made_records(("dp-sgd:4,6",), ("cma-es",)), "doubt", 8),
    "adaptive-worse": (
        lambda: made_records(
            *(("prune:0.9",), ("cma-es",)),
            attackers=("naive", "adaptive"),
            attack=by_attacker({"naive": 0.02, "adaptive": 0.03}),
        ),
        *("doubt", 8),
    ),
    "random-ties": (lambda: made_records(("none",), attack=by_strategy(0.021, 0.02)), "doubt", 8),
    "noise-ties": (lambda: one_defense(attack=lambda cell: 0.072), "note", 8),
    "loss-without-error": (overfitted, "doubt", 8),
    "still-improving": (cut_short, "doubt", 8),
    "few-images": (lambda: one_defense(5), "note", 5),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_flag_is_raised_by_what_it_is_for(name):
    make, severity, cells = TRIPPED[name]
    (flag,) = [flag for flag in flags_of(make()) if flag.name == name]
    assert (flag.severity, flag.cells) == (severity, cells)
    assert flag.message.endswith((".", ": GradientError: the gradient is zero"))
    assert "\n" not in flag.message


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"noise-ties"}))
def test_and_by_that_alone(name):
    """An attack on nothing alone also has a loss that says nothing."""
    assert [flag.name for flag in flags_of(TRIPPED[name][0]())] == [name]


def test_a_clean_store_raises_none():
    clean = made_records(
        ("none", "prune:0.9", "noise:0.2"),
        ("cma-es", "adam:starts=2", "random"),
        8,
        2,
        attackers=("naive", "adaptive"),
    )
    assert flags_of(clean) == []
    assert flags([]) == []


MESSAGES = {
    "objective-zero": "Of 8 cells, 3 ended with an objective of zero or without information, and 1 with a "
    "loss or an error that is not finite.",
    "shared-image": "In 2 of 8 cells the sibling control attacks an image that is private itself, so that "
    "the control holds what it should lack.",
    "failed-cells": "2 of 8 cells failed and the figure is of 6 images; most often (2): GradientError: the "
    "gradient is zero",
    "private-not-matched": "In 0 of 8 cells the private image's own gradient is no nearer to the observed "
    "one than that of the picture found, and in 8 it is further than 0.0001 without a defense.",
    "few-images": "5 of 5 images stand behind the figure; below 6 no leak can be shown at p < 0.05.",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_holds_the_numbers(name):
    (flag,) = flags_of(TRIPPED[name][0]())
    assert flag.message == MESSAGES[name]
    assert flag.group == replace(CELL, images=flag.group.images)


def test_comparisons_name_both_means_and_the_p_value():
    (flag,) = flags_of(TRIPPED["adaptive-worse"][0]())
    numbers = re.fullmatch(
        r"The adaptive attacker's mean error (\S+) is above the naive one's (\S+) "
        r"over 8 images \(p = (\S+)\)\.",
        flag.message,
    ).groups()
    assert [float(number) for number in numbers] == pytest.approx([0.03, 0.02, 2 / 2**8], rel=0.1)


# What must not raise a flag.


def test_an_exact_reconstruction_has_an_objective_of_zero_by_right():
    exact = {"attack_mse": 1e-9, "loss": 0.0, "match_of_attack": 0.0, "ceiling_mse": 1e-10}
    assert flags_of(with_all(one_defense(), {**exact, "match_of_private": 0.0})) == []


def test_a_distance_of_one_is_a_zero_gradient_by_cosine_alone():
    base = replace(CELL, distance="l2")
    assert flags_of(with_all(one_defense(base=base), {"match_of_attack": 1.0})) == []


def test_a_small_distance_of_the_private_gradient_is_judged_by_cosine_alone():
    """Squared L2 has the unit of the gradient."""
    base = replace(CELL, distance="l2")
    assert flags_of(with_all(one_defense(base=base), {"match_of_private": 2e-4})) == []


@pytest.mark.parametrize(("beaten", "raised"), [(4, []), (5, ["private-not-matched"])])
def test_noise_may_be_fitted_on_half_of_the_images(beaten, raised):
    records = made_records(("noise:0.2",), ("cma-es",))
    fitted = [with_figures(r, {"match_of_private": 0.3}) if r.cell.image < beaten else r for r in records]
    found = flags_of(fitted)
    assert [flag.name for flag in found] == raised
    assert {flag.severity for flag in found} <= {"note"}


def test_a_private_gradient_without_a_distance_does_not_match():
    (flag,) = flags_of(with_all(one_defense(), {"match_of_private": None}))
    assert (flag.name, flag.cells) == ("private-not-matched", 8)


def test_a_closed_form_may_be_nearer_than_the_ceiling():
    (flag,) = flags_of(one_defense(attackers=("analytic",), ceiling=0.02))
    assert (flag.name, flag.severity) == ("ceiling-below-attack", "note")
    assert flag.message.endswith("the closed form is not bound to the prior.")


def test_two_attackers_who_do_alike_are_rarely_told_apart():
    """A one-sided 2.5 % test gives 5 of 200 on average; 14 and more have probability below 1e-3."""
    random = np.random.default_rng(0)
    records = made_records(("noise:0.2",), ("cma-es",), attackers=("naive", "adaptive"))
    raised = 0
    for _ in range(200):
        errors = random.gamma(4, 0.006, (2, 8))
        drawn = zip(records, errors.ravel().tolist(), strict=True)
        groups = groups_of([with_figures(record, {"attack_mse": error}) for record, error in drawn])
        raised += adaptive_worse(groups[1], groups[0]) is not None
    assert raised < 14


def test_whoever_knows_more_is_held_against_all_who_know_less():
    errors = {"naive": 0.03, "adaptive": 0.02, "informed": 0.04, "matched": 0.05}
    records = made_records(("noise:0.2",), ("cma-es",), attackers=tuple(errors), attack=by_attacker(errors))
    found = [flag for flag in flags_of(records) if flag.name == "adaptive-worse"]
    assert [flag.group.attacker for flag in found] == ["informed", "informed"]
    assert ["naive one" in flag.message for flag in found] == [True, False]


def test_with_few_images_means_alone_cannot_accuse_an_attacker():
    records = made_records(
        *(("prune:0.9",), ("cma-es",), 5),
        attackers=("naive", "adaptive"),
        attack=by_attacker({"naive": 0.02, "adaptive": 0.03}),
    )
    assert {flag.name for flag in flags_of(records)} == {"few-images"}


def test_random_search_is_compared_under_the_same_budget():
    """It is the baseline of a strategy that shares every other axis, whatever its own options."""
    records = made_records(("none",), ("cma-es", "random:scale=1"), attack=by_strategy(0.021, 0.02))
    assert [flag.name for flag in flags_of(records)] == ["random-ties"]
    longer = [
        replace(r, cell=replace(r.cell, budget=500)) if r.cell.strategy != "cma-es" else r for r in records
    ]
    assert flags_of(longer) == []


def test_where_there_is_nothing_to_find_a_tie_with_random_search_is_a_note():
    found = flags_of(made_records(("noise:30",), attack=lambda cell: 0.072))
    ties = [flag for flag in found if flag.name == "random-ties"]
    assert [flag.severity for flag in ties] == ["note"]
    assert ties[0].message.endswith("nor is it below the noise control's, and there may be nothing to find.")


def test_a_strategy_ahead_of_random_search_by_too_little_is_a_note():
    """On five of six images it is better: p is 2 / 2⁶ · 2 at least, and that is not below 0.05."""
    records = made_records(("none",), images=6, attack=by_strategy(0.015, 0.02))
    records[0] = with_figures(records[0], {"attack_mse": 0.024})
    (flag,) = [flag for flag in flags_of(records) if flag.name == "random-ties"]
    assert flag.severity == "note"
    assert flag.message.endswith("more images would tell.")


def test_pictures_of_noise_that_identify_are_a_doubt():
    records = with_all(one_defense(attack=lambda cell: 0.072), {"noise_rank": 1})
    (flag,) = [flag for flag in flags_of(records) if flag.name == "noise-ties"]
    assert flag.severity == "doubt"


def test_a_rising_error_is_a_note_where_no_leak_is_claimed():
    records = [
        with_curve(r, lambda k: 0.99 + 0.01 * 0.2**k, lambda k: 0.06 + 0.002 * k)
        for r in made_records(("noise:30",), ("cma-es",))
    ]
    severities = {flag.name: flag.severity for flag in flags_of(records)}
    assert severities["loss-without-error"] == "note"


def test_an_error_that_fell_too_little_to_be_sure_is_a_note_even_of_a_leak():
    records = [
        with_curve(
            r,
            lambda k: 0.02 * 0.2**k,
            lambda k, i=r.cell.image: 0.02 + (k == 0) * (0.001 + 0.004 * (-1) ** i),
        )
        for r in one_defense()
    ]
    assert groups_of(records)[0].verdict == "leaks"
    (flag,) = flags_of(records)
    assert (flag.name, flag.severity) == ("loss-without-error", "note")


def test_the_baseline_is_not_asked_how_it_searched():
    for make in (cut_short, overfitted):
        baseline = [replace(r, cell=replace(r.cell, strategy="random")) for r in make()]
        assert flags_of(baseline) == []


def test_a_loss_that_still_falls_without_the_error_is_a_note():
    slow = [with_curve(r, lambda k: 0.03 - 0.002 * k, lambda k: 0.02 + 0.02 * 0.1**k) for r in one_defense()]
    (flag,) = flags_of(slow)
    assert (flag.name, flag.severity) == ("still-improving", "note")
    speed, gained = re.search(r"brought (\d+)% of .* and (\S+) of leak score\.$", flag.message).groups()
    assert (float(speed) / 100, float(gained)) == (pytest.approx(1, abs=0.02), 0)


def test_an_error_that_still_falls_is_a_doubt_however_small_the_loss():
    """Near the optimum the loss hardly moves: CMA-ES on LeNet, 1,008 to 2,000 evaluations, did this."""
    falling = [
        with_curve(r, lambda k: 0.02 * 0.2**k, lambda k: 0.03 if k < 6 else (0.03, 0.02)[k - 6])
        for r in one_defense()
    ]
    (flag,) = flags_of(falling)
    assert (flag.name, flag.severity) == ("still-improving", "doubt")


def test_a_short_curve_says_nothing_of_convergence():
    short = [replace(r, curve=r.curve[-3:]) for r in cut_short()]
    assert flags_of(short) == []


def test_speed_is_one_for_a_logarithmic_fall_and_zero_for_a_converged_search():
    even = Course(tuple(CurvePoint(16 * 2**k, 0.0, 1.0 - 0.1 * k, 0.1) for k in range(8)))
    converged = Course(tuple(CurvePoint(16 * 2**k, 0.0, 1.0 - 0.1 * min(k, 6), 0.1) for k in range(8)))
    stuck = Course(tuple(CurvePoint(16 * 2**k, 0.0, 1.0, 0.1) for k in range(8)))
    assert slowing([even]) == pytest.approx(1)
    assert slowing([even, even]) == pytest.approx(1)
    assert slowing([converged]) == slowing([stuck]) == 0
    assert slowing([even, converged]) == pytest.approx(0.7 / 1.3)


def test_a_curve_that_stops_short_of_the_end_is_completed_from_the_figures():
    """Whole generations may leave the budget itself unreached, where a curve has its last milestone."""
    cut = [replace(record, curve=record.curve[:-1]) for record in cut_short()]
    ended = [with_figures(record, {"evaluations": 1992}) for record in cut]
    assert [flag.name for flag in flags_of(ended)] == ["still-improving"]


def test_skipped_cells_are_no_lost_images_and_no_failures():
    records = one_defense(images=8, seeds=2)
    assert flags_of([skipped(r) if r.cell.seed == 1 else r for r in records]) == []


def test_failures_that_leave_too_few_images_raise_both_flags():
    found = flags_of([failed(r) if r.cell.image > 2 else r for r in one_defense()])
    assert [(flag.name, flag.severity) for flag in found] == [
        ("failed-cells", "doubt"),
        ("few-images", "note"),
    ]
    assert found[1].message.startswith("3 of 8 images")


def test_a_group_that_failed_as_a_whole_has_no_figure():
    (flag,) = flags_of([failed(record) for record in one_defense()])
    assert flag.message.startswith("8 of 8 cells failed and there is no figure; most often (8): ")


def test_doubts_come_first_then_the_graver_ones():
    records = made_records(("none",), ("cma-es",), 5, ceiling=0.02)
    records += failed_first(made_records(("prune:0.9",), ("cma-es",), 5))
    found = flags_of(records)
    expected = ["failed-cells", "ceiling-below-attack", "few-images", "few-images"]
    assert [flag.name for flag in found] == expected
    assert [flag.group.defense for flag in found[2:]] == ["none", "prune:0.9"]


def failed_first(records):
    return [failed(records[0]), *records[1:]]


def test_the_severest_of_a_group_counts():
    one, other = replace(CELL, seed=1), replace(CELL, seed=2)
    found = [
        Flag("a", severity, group, "", 1)
        for severity, group in (("doubt", one), ("note", one), ("note", other))
    ]
    assert severest(found) == severest(found[::-1]) == {one: "doubt", other: "note"}


def test_the_page_has_a_section_for_every_flag_with_its_line():
    """Each: what it means, why it can happen innocently, what to do."""
    sections = dict(re.findall(r"^## ([a-z-]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M))
    assert list(sections) == list(CHECKS)
    for name, text in sections.items():
        assert CHECKS[name] in text.lower(), name
        for part in ("**Means.**", "**Innocent.**", "**Do.**"):
            assert part in text, (name, part)

"""The share card of a captured update without truth: matches, and no score."""

import pytest
import torch

from ggl.captures.card import card_of, headline

TITLES = ["captured", *(f"control {k}" for k in range(1, 4)), *(f"noise {k}" for k in range(1, 4))]
SETTINGS = {"victim": "MLP", "prior": "p", "strategy": "adam", "budget": 240, "seed": 3, "batch_size": 2}


def result(**changes):
    rows = [{"update": t, "match_to_captured": 0.1 * (k + 1)} for k, t in enumerate(TITLES)]
    gap = {"mean": 0.2, "low": -0.1, "high": 0.5}
    known = {"settings": SETTINGS, "versions": {"ggl": "1.2"}, "updates": rows, "control_gap": gap}
    return {**known, "stands_out": True, "settings_doubtful": False, **changes}


def pictures(n=2):
    return [torch.full((n, 1, 4, 4), k / 10) for k in range(len(TITLES))]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "The captured update says more of its images than their labels."),
        ({"stands_out": False}, "Nothing was found in the captured update beyond its labels."),
        ({"settings_doubtful": True}, "The settings may not be the client's"),
    ],
)
def test_the_headline(changes, said):
    assert headline(result(**changes)).startswith(said)


def test_it_shows_matches_beside_controls_and_no_leak_score():
    card = card_of(result(), pictures())
    assert [row.title for row in card.rows] == ["captured", "control 1", "control 2", "noise 1", "noise 2"]
    assert [row.figure for row in card.rows] == ["0.1000", "0.2000", "0.3000", "0.5000", "0.6000"]
    assert [float(row.pictures[1].mean()) for row in card.rows] == pytest.approx([0, 0.1, 0.2, 0.4, 0.5])
    assert card.rows[0].said == "▲ yes"
    assert card_of(result(stands_out=False), pictures()).rows[0].said == "○ no"
    assert "0.2000 [−0.1000, 0.5000]" in card.below
    assert card.note.startswith("No leak score:")
    assert card.settings == (
        "victim MLP · prior p · strategy adam · 240 evaluations a search · 2 a gradient · seed 3 · ggl 1.2"
    )

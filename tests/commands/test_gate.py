"""The gate: which findings of an audit end in exit code 3."""

import json

import pytest

from ggl.base.errors import InputError
from ggl.commands.gate import read_gate


def row(verdict="no leak shown", mean=0.1, low=-0.2, high=0.4, n=10, defense="sign", attacker="naive"):
    return {
        "defense": defense,
        "attacker": attacker,
        "strategy": "adam",
        "verdict": verdict,
        "corrected": {"verdict": verdict, "mean": mean, "low": low, "high": high, "n": n},
        "leak_score": {"mean": mean, "low": low, "high": high, "n": n},
    }


def failures(conditions, *cells, worst=None):
    return read_gate([conditions]).failures(
        {"worst_case": worst or cells[:1], "results": cells, "ladder": None}
    )


LEAKS = row("leaks", 0.8, 0.6, 0.9)
IDENTIFIES = row("identifies", 0.3, -0.3, 0.7)
SAFE = row()
FEW = row("undecided", 0.1, -0.2, 0.4, n=5)
UNDEFINED = row("undecided", None, None, None)
WITHHELD = row("withheld", None, None, None)
FEW_IDENTIFIED = row("identifies", 0.1, -0.2, 0.4, n=3)


@pytest.mark.parametrize(
    ("condition", "cell", "said"),
    [
        ("leaks", LEAKS, "meets leaks: leaks, leak score 0.80 [0.60, 0.90] (naive, adam)"),
        ("leaks", IDENTIFIES, None),
        ("leaks", SAFE, None),
        ("leaks", FEW, "is not decided for leaks: undecided, there are fewer than six"),
        ("leaks", UNDEFINED, "is not decided for leaks: undecided"),
        ("leaks", WITHHELD, "is not decided for leaks: withheld, the private images do not make"),
        ("leaks", FEW_IDENTIFIED, "is not decided for leaks: undecided"),
        ("identifies", LEAKS, "meets identifies: leaks, leak score 0.80"),
        ("identifies", IDENTIFIES, "meets identifies: identifies, leak score 0.30 [-0.30, 0.70]"),
        ("identifies", SAFE, None),
        ("identifies", FEW, "is not decided for identifies: undecided"),
        ("identifies", WITHHELD, "is not decided for identifies: withheld"),
        ("identifies", FEW_IDENTIFIED, "meets identifies"),
        ("score:0.2", LEAKS, "meets score:0.2: leaks, leak score 0.80"),
        ("score:0.2", IDENTIFIES, "meets score:0.2: identifies"),
        ("score:0.2", SAFE, None),
        ("score:0.1", SAFE, None),
        ("score:0", SAFE, "meets score:0: no leak shown, leak score 0.10 [-0.20, 0.40]"),
        ("score:0.2", FEW, "is not decided for score:0.2: undecided"),
        ("score:0.05", FEW, "meets score:0.05: undecided, leak score 0.10"),
        ("score:0.2", UNDEFINED, "is not decided for score:0.2: undecided"),
        ("score:0.2", WITHHELD, "is not decided for score:0.2: withheld"),
        ("score:0.2", row("identifies", None, None, None), "is not decided for score:0.2: undecided"),
        (
            "score:0.2",
            row("undecided", 0.5, None, None, n=1),
            "meets score:0.2: undecided, leak score 0.50, without an interval",
        ),
    ],
)
def test_what_meets_a_condition(condition, cell, said):
    found = failures(condition, cell)
    assert len(found) == (said is not None)
    assert said is None or found[0].startswith(f"'sign' {said}")


def test_a_score_is_the_highest_of_any_attacker_and_a_verdict_the_worst_cases():
    """The worst case leaks with the lower score: a bound between both is met by the other cell."""
    leaking = row("leaks", 0.15, 0.05, 0.3)
    higher = row("no leak shown", 0.4, -0.1, 0.7, attacker="adaptive")
    assert failures("score:0.2", leaking, higher) == [
        "'sign' meets score:0.2: no leak shown, leak score 0.40 [-0.10, 0.70] (adaptive, adam)"
    ]
    assert failures("score:0.5", leaking, higher) == []


def test_a_cell_that_is_undecided_beside_a_decided_one_is_not_passed_over():
    (line,) = failures("leaks", SAFE, UNDEFINED)
    assert "is not decided for leaks" in line


def test_every_defense_and_every_condition_has_its_line():
    first, second = row("leaks", 0.8, 0.6, 0.9, defense="none"), row(defense="sign", mean=0.3)
    found = failures("leaks,score:0.2", first, second, worst=[first, second])
    assert [line.partition(":")[0] for line in found] == [
        "'none' meets leaks",
        "'none' meets score",
        "'sign' meets score",
    ]


def test_conditions_come_with_commas_or_one_by_one():
    assert read_gate([]) is None
    assert read_gate(["leaks, score:0.2", "leaks", "identifies"]).conditions == (
        *("leaks", "score:0.2", "identifies"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leak", "did you mean 'leaks'"),
        ("", "no condition is named ''"),
        ("leaks,", "no condition is named ''"),
        ("leaks:1", "no condition is named 'leaks:1'"),
        ("score", "expected score:X with a leak score from 0 to below 1, found score:"),
        ("score:", "found score:"),
        ("score:high", "found score:high"),
        ("score:nan", "found score:nan"),
        ("score:-0.1", "found score:-0.1"),
        ("score:20", "found score:20"),
    ],
)
def test_what_is_no_condition(text, message):
    with pytest.raises(InputError, match=message) as error:
        read_gate([text])
    assert str(error.value).startswith("--fail-on: ")


SHORT = ("--budget", 16, "--ceiling-budget", 8, "--strategy", "random", "--device", "cpu")


def test_a_gate_that_fails_writes_the_results_all_the_same(ggl, tmp_path):
    out = tmp_path / "out"
    code, output, errors = ggl("audit", "--out", out, "--images", 2, *SHORT, "--fail-on", "leaks,score:0.99")
    assert (code, errors) == (3, "")
    assert output.count("gate: 'none' is not decided for ") == 2
    assert json.loads((out / "result.json").read_text())["worst_case"][0]["verdict"] == "undecided"
    assert (out / "report.html").exists()
    assert not (out / ".ggl-checkpoints").exists()


@pytest.mark.slow("six images and their controls")
def test_a_gate_that_is_passed_says_so(ggl, tmp_path):
    defenses = ("--defense", "noise:30", "--defense", "noise:300")
    options = ("--images", 6, *SHORT, "--ceiling-budget", 100, "--fail-on", "leaks", "--fail-on", "score:0.9")
    code, output, errors = ggl("audit", "--out", tmp_path / "out", *defenses, *options)
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1] == "gate: passed, no defense meets leaks, score:0.9"


def test_bad_conditions_end_before_anything_runs(ggl, tmp_path):
    for command in ("audit", "demo"):
        code, output, errors = ggl(command, "--out", tmp_path / "out", "--fail-on", "leak")
        assert (code, output) == (2, "")
        assert errors == (
            "ggl: --fail-on: no condition is named 'leak'; did you mean 'leaks'? known: leaks, identifies, "
            "score:X\n"
        )
    assert not (tmp_path / "out").exists()


def test_a_gate_needs_scores(ggl, tmp_path):
    update = ("--update", tmp_path / "a.pt", tmp_path / "b.pt", "--lr", 1)
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *update, "--fail-on", "leaks")
    assert code == 2
    assert "without --truth nothing is scored: give --truth" in errors


def test_a_defense_that_no_realistic_rung_could_attack_is_not_passed():
    told = SAFE | {"kind": "diagnostic", "corrected": LEAKS["corrected"]}
    ladder = {"first_leak": [{"defense": "sign"}, {"defense": "noise:3e37"}]}
    result = {"worst_case": [SAFE], "results": [SAFE | {"kind": "realistic"}, told], "ladder": ladder}
    assert read_gate(["leaks", "score:0.5"]).failures(result) == [
        f"'noise:3e37' is not decided for {condition}: no realistic attack on it could be tried"
        for condition in ("leaks", "score:0.5")
    ]

"""Progress in logs: a line every ten seconds and one where a stage ends; bars on a terminal alone."""

import io

import pytest
from rich.console import Console

from ggl.commands.console import LogLines, count_bars, progress_bars


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def log():
    stream = io.StringIO()
    return stream, Console(file=stream, width=60)


def test_a_line_every_ten_seconds_and_at_the_end():
    (stream, console), clock = log(), Clock()
    lines = LogLines(console, "evaluations", clock)
    for done in range(0, 2001, 100):
        lines.tell("attack, none", done, 2000, 1 / (1 + done))
        clock.now += 1
    assert stream.getvalue().splitlines() == [
        "attack, none: 1,000 of 2,000 evaluations, 100 a second, 10 s left, best loss 0.0010",
        "attack, none: 2,000 of 2,000 evaluations, 100 a second, best loss 0.0005",
    ]


def test_an_end_that_is_told_again_is_one_line():
    (stream, console), clock = log(), Clock()
    lines = LogLines(console, "evaluations", clock)
    for _ in range(2):
        lines.tell("ceiling", 20, 20, 0.5)
    lines.tell("ceiling", 24, 24, 0.5)
    assert stream.getvalue().splitlines() == [
        "ceiling: 20 of 20 evaluations, best loss 0.5000",
        "ceiling: 24 of 24 evaluations, best loss 0.5000",
    ]


def test_stages_share_the_ten_seconds():
    (stream, console), clock = log(), Clock()
    lines = LogLines(console, "rounds", clock)
    for done in range(1, 6):
        for title in ("a", "b"):
            lines.tell(title, done, 100)
            clock.now += 3
    assert stream.getvalue().splitlines() == [
        "a: 3 of 100 rounds, 0.167 a second, 10 min left",
        "a: 5 of 100 rounds, 0.167 a second, 10 min left",
    ]


def test_a_stage_that_is_told_of_once_has_no_rate():
    (stream, console), clock = log(), Clock()
    LogLines(console, "", clock).tell("ceiling", 5, 5)
    assert stream.getvalue() == "ceiling: 5 of 5\n"


def test_a_stage_that_goes_on_counts_what_it_does_itself():
    """Resumed at 900 of 1,000, ten evaluations a second are ten a second."""
    (stream, console), clock = log(), Clock()
    lines = LogLines(console, "evaluations", clock)
    lines.tell("attack", 900, 1000)
    clock.now += 10
    lines.tell("attack", 1000, 1000)
    assert stream.getvalue() == "attack: 1,000 of 1,000 evaluations, 10 a second\n"


@pytest.mark.parametrize("bars", [progress_bars, count_bars])
def test_bars_are_for_terminals(bars):
    for terminal in (False, True):
        stream = io.StringIO()
        with bars(Console(file=stream, width=120, force_terminal=terminal)) as stage:
            stage("attack", 1, 2, *([0.5] if bars is progress_bars else []))
            stage("attack", 2, 2, *([0.25] if bars is progress_bars else []))
        assert ("━" in stream.getvalue()) == terminal
        assert ("attack: 2 of 2" in stream.getvalue()) != terminal

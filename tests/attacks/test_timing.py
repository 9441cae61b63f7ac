"""Rates of a few generations: what is timed, what is left out, and that the search goes no further."""

import pytest
import torch

from ggl.attacks.timing import affordable_rate, mean_rate, modeled_rate, timed_rate
from ggl.base.durations import clock_of, duration_text, wall_seconds
from ggl.base.memory import PeakMemory


class Searches:
    """Searches whose generations cost what they are told, on a clock of their own."""

    def __init__(self, sizes, seconds, setup=0.0):
        self.sizes, self.seconds, self.setup, self.now, self.generations = sizes, seconds, setup, 0.0, 0

    def clock(self):
        return self.now

    def run(self, progress):
        self.now += self.setup
        done = 0
        for size, seconds in zip(self.sizes, self.seconds, strict=True):
            self.now, done, self.generations = self.now + seconds, done + size, self.generations + 1
            progress(done, sum(self.sizes), 0.5)


def test_what_comes_before_the_second_generation_is_left_out():
    found = Searches([10] * 9, [5.0, 1.0, 3.0, *[100.0] * 6], setup=50.0)
    assert timed_rate(found.run, found.clock, generations=2) == pytest.approx(0.2)
    assert found.generations == 3


def test_a_run_of_one_generation_is_timed_in_it():
    found = Searches([10], [5.0], setup=1.0)
    assert timed_rate(found.run, found.clock) == pytest.approx(0.6)


def test_what_follows_a_design_is_timed_and_the_faster_try_counts():
    tries = []

    def run(progress):
        tries.append(0)
        found.run(progress)

    found = Searches([8, 8, 8, 8], [1.0, 1.0, 16.0, 99.0])
    assert timed_rate(found.run, found.clock, after=16) == pytest.approx(2.0)
    assert modeled_rate(run, found.clock, 16) == pytest.approx(2.0)
    assert len(tries) == 2
    assert mean_rate(1.0, 3.0, 0.25) == 2.5


@pytest.mark.parametrize(("seconds", "widths"), [(1.0, [1]), (0.1, [1, 2]), (0.001, [1, 5])])
def test_as_many_searches_are_timed_as_a_quarter_of_a_second_affords(seconds, widths):
    asked, clock = [], Searches([], [])

    def run_of(width):
        asked.append(width)
        found = Searches([4 * width] * 6, [seconds * width] * 6)

        def run(progress):
            found.run(lambda *told: (setattr(clock, "now", found.now), progress(*told)))

        return run

    assert affordable_rate(run_of, clock.clock, 5) == pytest.approx(seconds / 4)
    assert asked == widths


def test_an_error_of_the_search_is_no_end_of_it():
    def run(progress):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        timed_rate(run, lambda: 0.0)


def test_durations_and_workers():
    assert [duration_text(seconds) for seconds in (0.04, 9.96, 99.0, 100.0, 5999.0, 7200.0)] == [
        *("0.0 s", "10.0 s", "99 s", "2 min", "100 min", "2.0 h"),
    ]
    assert [wall_seconds([4.0, 1.0, 2.0, 2.0], count) for count in (1, 2, 9)] == [9.0, 5.0, 4.0]
    assert clock_of(torch.device("cpu"))() > 0


def test_the_peak_is_of_what_was_held_since():
    before = PeakMemory(torch.device("cpu"))
    held = torch.ones(2**24)
    assert before.read() > held.numel() * 4
    del held

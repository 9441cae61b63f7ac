"""The figure of privacy against utility: where its points, bars and labels lie."""

import re
from itertools import combinations

import pytest

from ggl.pages.trade_off import draw_trade_off

LABEL = re.compile(r'<text [^>]*font-size: 8\.5px[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>(\d\d)</text>')


def interval(mean, reach=0.1):
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def point(label, score, accuracy, verdict="leaks", reach=0.1):
    figures = {"leak_score": interval(score, reach), "accuracy": interval(accuracy, 1.0)}
    return {"key": label, "label": label, "verdict": verdict, **figures}


def draw(*points, reach=(-1.0, 1.5)):
    return str(draw_trade_off(points, interval(80.0, 1.0), reach))


def place(figure, label):
    """Return where a point's marker lies: to the right and down."""
    marker = re.search(rf'id="trade-off-point-{label}".*?<use [^>]*x="([\d.]+)" y="([\d.]+)"', figure, re.S)
    return float(marker[1]), float(marker[2])


def test_points_lie_where_their_figures_say_and_beyond_the_axis_at_its_end():
    points = [point("00", 1, 80), point("01", 0.5, 70), point("02", -3, 60), point("03", 9, 60)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (place(draw(*points), p["label"]) for p in points)
    assert x0 - x1 == pytest.approx(x1 - x2, abs=1e-3)
    assert x2 == x3
    assert (y1 - y0) / (y2 - y0) == pytest.approx((1 - 0.5) / (1 - -1), abs=1e-3)
    assert (y3 - y0) / (y2 - y0) == pytest.approx((1 - 1.5) / (1 - -1), abs=1e-3)


@pytest.mark.parametrize(("score", "arrows"), [(0.5, 0), (1.45, 1), (7.0, 1), (-0.95, 1), (-7.0, 1)])
def test_what_reaches_beyond_the_axis_has_an_arrow(score, arrows):
    """An arrow is one mark more; the axes and their ticks stay the same."""
    plain = draw(point("00", 0.2, 70)).count("<use ")
    assert draw(point("00", score, 70)).count("<use ") - plain == arrows


@pytest.mark.parametrize(
    ("verdict", "full"),
    [("leaks", True), ("identifies", True), ("no leak shown", False), ("undecided", False)],
)
def test_filled_is_what_gives_images_away(verdict, full):
    figure = draw(point("00", 0.5, 70, verdict))
    marker = re.search(r'id="trade-off-point-00".*?</g>\s*</g>', figure, re.S)[0]
    assert ("fill: var(--page)" in marker) != full


def test_labels_of_points_in_one_place_do_not_cover_each_other():
    """Two digits of 8.5 points are about 10 wide, and 6 high."""
    found = LABEL.findall(draw(*(point(f"{k:02d}", 0.5, 70) for k in range(25))))
    assert [label for _, _, label in found] == [f"{k:02d}" for k in range(25)]
    places = [(float(x), float(y)) for x, y, _ in found]
    assert all(abs(a[0] - b[0]) > 10 or abs(a[1] - b[1]) > 6 for a, b in combinations(places, 2))


def test_points_are_named_by_their_labels_and_long_names_end_in_an_ellipsis():
    long = "top-k:0.01,momentum=0.9+noise:0.001"
    figure = draw(*({**point(key, 0.5, 70), "label": name} for key, name in (("00", "clip:4"), ("01", long))))
    texts = re.findall(r"<text [^>]*font-size: 8\.5px[^>]*>([^<]+)</text>", figure)
    assert texts == ["clip:4", "top-k:0.01,momentum=0.9+n…"]
    assert place(figure, "01")


def test_names_of_points_in_one_place_do_not_cover_each_other():
    """A character is at least four points wide here, a name of nine 36; a line is 8.5 high."""
    names = [f"prune:0.{k}" for k in range(10, 22)]
    figure = draw(*({**point(f"{k:02d}", 0.5, 70), "label": name} for k, name in enumerate(names)))
    found = re.findall(r'<text [^>]*font-size: 8\.5px[^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>prune', figure)
    assert len(found) == len(names)
    places = [(float(x), float(y)) for x, y in found]
    assert all(abs(a[0] - b[0]) > 36 or abs(a[1] - b[1]) > 6 for a, b in combinations(places, 2))


def test_no_label_leaves_the_axes():
    """A figure of four points is 576 by 4.84 * 72 = 348 points."""
    corners = [
        point(f"{k:02d}", score, x) for k, (score, x) in enumerate(((-9, 0), (9, 0), (-9, 99), (9, 99)))
    ]
    found = LABEL.findall(draw(*corners))
    assert len(found) == 4
    for x, y, _ in found:
        assert 0.1 * 576 < float(x) < 0.985 * 576
        assert 0.06 * 348 < float(y) < 0.89 * 348


def test_it_has_the_same_bytes_each_time_and_the_pages_colors():
    points = [point("00", 0.5, 70), point("01", -2, 60, "undecided")]
    assert draw(*points) == draw(*points)
    assert "currentColor" in draw(*points)
    assert 'id="figure' not in draw(*points)


def test_it_may_have_no_points_and_no_intervals():
    unknown = {"mean": 80.0, "low": None, "high": None}
    assert "undefended: 80.0 %" in str(draw_trade_off([], unknown, (0.0, 1.0)))
    single = {**point("00", 0.5, 70), "accuracy": unknown, "leak_score": {**unknown, "mean": 0.4}}
    assert "trade-off-point-00" in str(draw_trade_off([single], unknown, (0.0, 1.0)))

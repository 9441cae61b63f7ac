"""The page of an audit in Chromium: legible, named, reachable, printable; and that each check can fail."""

import pytest
from browser import NEEDS_BROWSER, complaints
from test_page import cell, entry, report, utility

from ggl.audits.card import card_of
from ggl.audits.page import render

pytestmark = NEEDS_BROWSER

VIEWS = [("desk", "light"), ("desk", "dark"), ("phone", "light"), ("paper", "light")]

BROKEN = {
    '<p style="color: #999">x</p>': "contrast",
    '<p style="width: 1500px">x</p>': "scrolls sideways",
    '<img src="data:,">': "without alternative text",
    "<h5>x</h5>": "skips a level",
    "<table><tr><th>x</th></tr></table>": "without a caption",
    '<a href="#nowhere">x</a>': "leads nowhere",
    '<a href="#summary" style="outline: none !important">x</a>': "focus is not seen",
    '<a href="#summary" tabindex="3">x</a>': "out of the keyboard's order",
    '<div style="overflow: auto; width: 9px; white-space: nowrap">as it is</div>': "not by keyboard",
    "<input>": "without a label",
    '<svg viewBox="0 0 1 1"></svg>': "neither named nor hidden",
    '<section id="summary"></section>': "an id is there twice",
    '<script>throw new Error("on purpose")</script>': "on purpose",
}
"""What is wrong, and a part of what is said of it."""


@pytest.fixture(scope="module")
def content():
    made = report(cell("none", 0.02), cell("prune:0.9", 0.05, attacker="naive"), cell("noise:1", 0.5))
    made = made.with_utility(utility(entry("none", 0.8), entry("noise:1", 0.5)))
    result = made.to_dict()
    return render(made, result, card_of(made, result))


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_is_wrong_with_an_audits_page(content, tmp_path, width, scheme):
    assert complaints(content, tmp_path, width=width, scheme=scheme) == []


def test_every_check_can_fail(content, tmp_path):
    found = complaints(content.replace("</main>", "\n".join(BROKEN) + "</main>"), tmp_path)
    for wrong, said in BROKEN.items():
        assert any(said in line for line in found), wrong


@pytest.mark.parametrize(
    ("rule", "wrong", "said"),
    [
        ("@page", "@nothing", "no @page"),
        ("break-inside: avoid", "break-inside: auto", "breakInside is auto"),
        ("display: table-header-group", "display: block", "thead: display"),
        ("print-color-adjust: exact", "", "printColorAdjust is economy"),
        ("overflow: visible", "", "overflowX is auto"),
        ("position: static", "", "position is sticky"),
        ("</main>", '<p style="width: 1000px">x</p></main>', "wider than the paper"),
    ],
)
def test_every_check_of_print_can_fail(content, tmp_path, rule, wrong, said):
    found = complaints(content.replace(rule, wrong), tmp_path, width="paper")
    assert any(said in line for line in found)

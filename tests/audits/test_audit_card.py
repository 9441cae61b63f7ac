"""The share card of an audit: its words come from the result, and its pictures are those of the page."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_page import N, Page, cell, report

from ggl.audits import page
from ggl.audits.card import MOST_DEFENSES, card_of, headline, settings_line
from ggl.base.errors import InputError
from ggl.pages.card import MOST_PICTURES, draw_card
from ggl.pages.templates import COLUMNS_SHOWN


def card(*cells):
    made = report(*cells)
    return card_of(made, made.to_dict())


def worst(**verdicts):
    return [{"defense": name, "corrected": {"verdict": said}} for name, said in verdicts.items()]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({"a": "leaks"}, "Shared gradients leak under a."),
        (
            {"a": "leaks", "b": "no leak shown", "c": "leaks"},
            "Shared gradients leak under a and c; no leak was shown under b.",
        ),
        (
            {"a": "leaks", "b": "identifies"},
            "Shared gradients leak under a; they identify private images under b.",
        ),
        ({"b": "identifies"}, "Shared gradients identify private images under b."),
        (dict.fromkeys("abcde", "undecided"), "There is no verdict on a, b, c and 2 more."),
        (dict.fromkeys("abcd", "undecided"), "There is no verdict on a, b, c and d."),
        (
            {"a": "withheld"},
            "Every verdict is withheld, since the private images do not make the captured update, on a.",
        ),
    ],
)
def test_the_headline_says_what_leaks_under_which_defense(verdicts, said):
    assert headline(worst(**verdicts)) == said


def test_rows_are_private_images_attacks_control_and_ceiling_with_the_corrected_figures():
    made = report(
        cell("none", 0.02),
        cell("prune:0.9", 0.095, attacker="naive"),
        cell("prune:0.9", 0.05),
        cell("b", 0.5),
    )
    result = made.to_dict()
    found = card_of(made, result)
    titles = [row.title for row in found.rows]
    assert titles == ["private image", "none", "prune:0.9", "b", "control", "ceiling"]
    assert [(row.said, row.tone) for row in found.rows[1:4]] == [
        ("▲ leaks", "alarm"),
        ("▲ leaks", "alarm"),
        ("○ no leak shown", "calm"),
    ]
    score = result["worst_case"][1]["corrected"]
    assert found.rows[2].figure == f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
    assert found.rows[4].said == "another image's gradient, under none"
    assert found.headline == headline(result["worst_case"])


def test_the_pictures_are_those_of_the_cell_behind_each_worst_case():
    dark, light = torch.zeros(N, 1, 8, 8), torch.ones(N, 1, 8, 8)
    found = card(
        cell("none", 0.02),
        cell("prune:0.9", 0.095, attacker="naive", images=dark),
        cell("prune:0.9", 0.05, images=light),
    )
    assert torch.equal(torch.stack(list(found.rows[2].pictures)), light)


def test_it_shows_no_picture_that_the_page_does_not():
    assert MOST_PICTURES <= COLUMNS_SHOWN
    n = COLUMNS_SHOWN + 2
    images = torch.arange(n)[:, None, None, None].expand(n, 1, 8, 8) / n
    found = card(cell("none", 0.02, n=n, images=images))
    for row in found.rows:
        assert torch.equal(torch.stack(list(row.pictures)), images[:MOST_PICTURES])
    assert found.columns == [f"image {k}" for k in range(MOST_PICTURES)]


def test_of_many_defenses_those_that_leak_most_are_shown_in_the_order_audited():
    errors = {"a": 0.5, "b": 0.05, "c": 0.6, "d": 0.02, "e": 0.03, "f": 0.4, "g": 0.04}
    found = card(*(cell(name, mse) for name, mse in errors.items()))
    assert [row.title for row in found.rows[1:-2]] == ["b", "d", "e", "g"]
    assert len(found.rows) == MOST_DEFENSES + 3
    assert found.rows[-2].said.endswith("under b")


def test_one_image_is_undecided_and_has_no_interval():
    found = card(cell("none", 0.03, n=1))
    assert (found.rows[1].said, found.rows[1].figure) == ("? undecided", "0.75 [undefined]")
    assert found.headline == "There is no verdict on none."


def test_who_is_recognizable_is_said_of_the_worst_defense():
    picked = cell("none", 0.02)
    picked = dataclasses.replace(
        picked, attack=dataclasses.replace(picked.attack, ranks=np.ones(N, dtype=int))
    )
    controls = {
        name: dataclasses.replace(scores, ranks=np.full(N, 50)) for name, scores in picked.controls.items()
    }
    found = card(cell("noise:1", 0.5), dataclasses.replace(picked, controls=controls))
    assert found.below == "At least 6 of 6 people are recognizable under none."
    assert card(cell("noise:1", 0.5), cell("b", 0.5)).below == "No person is shown to be recognizable."


def test_where_scores_are_withheld_no_score_is_shown():
    made = report(cell("none", 0.02))
    result = made.to_dict()
    for entry in (*result["results"], *result["worst_case"]):
        entry["verdict"] = entry["corrected"]["verdict"] = "withheld"
        for key in ("mean", "low", "high"):
            entry["leak_score"][key] = entry["corrected"][key] = None
        entry["people"] = None
    found = card_of(made, result)
    assert (found.rows[1].said, found.rows[1].figure, found.below) == ("— withheld", "", "")


def test_the_settings_name_what_was_measured_with_and_no_folder():
    result = report(cell("none", 0.02)).to_dict()
    result["settings"] |= {
        "data": "/home/my files/faces.npz",
        "prior": "stylegan2:../weights/ffhq.pkl,space=w",
    }
    line = settings_line(result, ["cma-es", "adam", "cma-es"])
    assert line == (
        "victim LeNet · prior stylegan2:ffhq.pkl,space=w · data faces.npz · strategy cma-es and adam · "
        f"64 evaluations a search · 6 images · seed 0 · ggl {result['versions']['ggl']}"
    )
    result["settings"]["batch_size"] = 4
    assert "6 images · 4 a gradient · seed 0" in settings_line(result, ["adam"])


def test_it_is_saved_beside_the_page_that_names_it(tmp_path):
    made = report(cell("none", 0.02), cell("clip:4", 0.05))
    made.save(tmp_path)
    content = (tmp_path / "card.png").read_bytes()
    assert content == draw_card(made.card(made.to_dict()))
    assert Image.open(io.BytesIO(content)).size == (1200, 630)
    found = Page((tmp_path / "report.html").read_text("utf-8"))
    named = {a["property"]: a["content"] for a in found.all("meta") if "property" in a}
    assert named["og:image"] == "card.png"
    assert named["og:description"] == "Shared gradients leak under none and clip:4."
    assert "card.png" in {a.get("href") for a in found.all("a")}


def test_without_a_page_there_is_no_card_and_the_page_alone_names_none(tmp_path):
    made = report(cell("none", 0.02))
    made.save(tmp_path, html=False)
    assert not (tmp_path / "card.png").exists()
    assert "card.png" not in page.render(made, made.to_dict())


def test_without_the_extra_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"card\.png need"):
        report(cell("none", 0.02)).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_leaves_the_result_as_it_was():
    made = report(cell("none", 0.02))
    result = made.to_dict()
    before = json.dumps(result)
    card_of(made, result)
    assert json.dumps(result) == before

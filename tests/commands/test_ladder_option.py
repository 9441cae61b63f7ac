"""`ggl audit --ladder`: simulated clients and captured updates, or one line that says why not."""

import json

import numpy as np
import pytest
from html_pages import Page
from test_batch_statistics_option import capture
from test_several_rounds import folder, updates  # noqa: F401

SMALL = ("--ladder", "--budget", 24, "--ceiling-budget", 8, "--device", "cpu")


def ladder_of(out):
    result = json.loads((out / "result.json").read_text())
    rungs = {rung["name"]: under for rung in result["ladder"]["rungs"] for under in rung["under"]}
    return result, rungs


def test_simulated_clients(ggl, tmp_path):
    out = tmp_path / "out"
    code, output, errors = ggl("audit", "--out", out, "--images", 1, "--victim", "mlp", *SMALL)
    assert (code, errors) == (0, "")
    said = " ".join(output.split())
    assert "the ladder: 11 rungs, 4 attacks to run; 9 searches" in said
    assert "under none, rungs 5, 8 and 9 do what rung 4 does" in said
    assert "6 derivatives, adds to 5: derivatives of victim and prior" in said
    assert "under none there is no verdict on a leak: fewer than six gradients" in said
    result, rungs = ladder_of(out)
    assert [rung["rung"] for rung in result["ladder"]["rungs"]] == list(range(1, 12))
    assert [cell["rung"] for cell in result["results"]] == [2, 3, 4, 6]
    assert [rungs[name]["cell"] for name in ("closed form", "pixels", "prior", "derivatives")] == [0, 1, 2, 3]
    assert result["settings"]["label_rule"] is None
    assert "labels" not in result["settings"]["attacker_knows"]
    page = Page((out / "report.html").read_text())
    assert {"id": "ladder", "aria-labelledby": "ladder-title"} in page.all("section")
    assert "Under none there is no verdict on a leak" in page.text
    assert "5 defense known realistic as rung 4 6 derivatives realistic ? undecided" in page.text
    assert "cell 03 , adam" in page.text
    assert "4 prior realistic a generator of the images' domain read off the gradient nothing" in page.text
    assert not (out / ".ggl-checkpoints").exists()


def test_a_captured_update_with_its_statistics(ggl, tmp_path, data):
    given = capture(tmp_path, data)
    out = tmp_path / "out"
    code, _, errors = ggl("audit", "--out", out, *given, "--truth", tmp_path / "truth.npz", *SMALL)
    assert (code, errors) == (0, "")
    result, rungs = ladder_of(out)
    assert result["settings"]["captured"]
    assert rungs["batch statistics"]["cell"] is not None
    assert rungs["batch statistics"]["psnr"] != rungs["derivatives"]["psnr"]
    assert rungs["image by image"]["reason"] == "the captured update is of a whole batch"


def test_statistics_that_were_not_sent_are_a_reason(ggl, tmp_path, data):
    given = capture(tmp_path, data, sent=False)
    out = tmp_path / "out"
    code, output, _ = ggl("audit", "--out", out, *given, "--truth", tmp_path / "truth.npz", *SMALL)
    assert code == 0
    assert "no batch statistics: running statistics did not move" in output
    assert ladder_of(out)[1]["batch statistics"]["reason"].endswith("batch are not given")


def test_where_the_images_do_not_make_the_update_no_rung_is_judged(ggl, tmp_path, data):
    given = capture(tmp_path, data)
    images = (data.images[10:12, 0] * 255).round().byte().numpy()
    np.savez(tmp_path / "truth.npz", images=images, labels=data.labels[10:12].numpy())
    out = tmp_path / "out"
    code, output, _ = ggl("audit", "--out", out, *given, "--truth", tmp_path / "truth.npz", *SMALL)
    assert code == 0
    assert "under none every verdict is withheld" in output
    assert {cell["verdict"] for cell in ladder_of(out)[0]["results"]} == {"withheld"}


@pytest.mark.filterwarnings("ignore:the strategy is cma-es")
def test_several_rounds(ggl, folder, tmp_path):  # noqa: F811
    given = (*updates(folder, 0, 1), "--truth", folder / "truth.npz", "--lr", 0.1)
    out = tmp_path / "out"
    code, _, errors = ggl("audit", "--out", out, *given, *SMALL)
    assert (code, errors) == (0, "")
    _, rungs = ladder_of(out)
    assert rungs["prior"]["label_rule"] == "searched"
    assert rungs["true labels"]["label_rule"] == "known"
    assert rungs["pixels"]["reason"].startswith("it cannot search for labels, and has to read them")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attacker", "all"], "--ladder chooses these for each of its rungs: leave --attacker out"),
        (["--strategy", "auto"], "--ladder chooses these for each of its rungs: leave --strategy out"),
        (
            ["--label-rule", "known", "--batch-statistics"],
            "--ladder chooses these for each of its rungs: leave --label-rule, --batch-statistics out",
        ),
        (["--budget", 3], "a budget of 3 evaluations is below one generation of"),
    ],
)
def test_what_a_ladder_chooses_itself(ggl, tmp_path, options, message):
    code, _, errors = ggl("audit", "--out", tmp_path / "out", "--images", 1, *SMALL, *options)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_an_update_without_its_images_has_no_ladder(ggl, tmp_path, data):
    given = capture(tmp_path, data)
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *given, "--private-labels", "0,1", *SMALL)
    assert code == 2
    assert "--ladder compares the scores of its rungs: with --update expected the images behind it" in errors

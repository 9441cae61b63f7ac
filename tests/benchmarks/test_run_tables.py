"""Runs as tables: every cell, its controls and the ceiling, and nothing that shows a picture."""

import json

import pytest

from ggl.base.errors import InputError
from ggl.benchmarks.studies.run_tables import section


def figure(mean, low=None, high=None):
    return {"mean": mean, "low": low, "high": high}


def figures(psnr, **more):
    return {"psnr": figure(psnr, psnr - 1, psnr + 1), "identification": figure(0.5, 0.1, 0.9), **more}


def test_an_audit_has_a_row_for_every_attack_and_control(tmp_path):
    cell = figures(15, defense="none", verdict="leaks", leak_score=figure(0.4, 0.2, 0.6))
    cell["controls"] = {"sibling": figures(11, leak_score=figure(-1.0))}
    settings = {"victim": "lenet", "prior": "p", "data": "/secret/place/faces.npz", "budget": 16}
    result = {"settings": settings, "results": [cell], "ceiling": figures(20)}
    (tmp_path / "result.json").write_text(json.dumps(result))
    lines = section(tmp_path).splitlines()
    assert lines[2] == "victim lenet, prior p, data faces.npz, budget 16."
    assert lines[6:] == [
        "| none | **attack** | 0.40 [0.20, 0.60] | 0.50 [0.10, 0.90] | 15.0 [14.0, 16.0] |  | leaks |",
        "| none | sibling | -1.00 | 0.50 [0.10, 0.90] | 11.0 [10.0, 12.0] |  |  |",
        "|  | ceiling |  | 0.50 [0.10, 0.90] | 20.0 [19.0, 21.0] |  |  |",
    ]


def test_a_prior_report_has_its_gain_beside_the_inversion(tmp_path):
    found = {
        "figures": {"inversion": {"psnr": figure(20)}, "class_mean": {"psnr": figure(14)}},
        "gain": {**figure(6, 5, 7), "p_value": 0.002},
    }
    (tmp_path / "prior.json").write_text(json.dumps({"settings": {"prior": "p"}, "sets": {"own": found}}))
    assert section(tmp_path).splitlines()[-2:] == [
        "| own | **inversion** | 20.0 |  | 6.0 [5.0, 7.0], p = 0.002 |",
        "| own | class mean | 14.0 |  |  |",
    ]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected result\.json or prior\.json, found neither"):
        section(tmp_path)

"""`ggl doctor`: what is here, what is missing, and the line that brings it."""

import re
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from ggl.commands import doctor


def lines(out):
    """Return the texts by the word they stand under."""
    found, word = {}, ""
    for line in out.splitlines():
        word = line[: doctor.WIDTH].strip() or word
        found.setdefault(word, []).append(line[doctor.WIDTH :])
    return found


def test_it_names_versions_machine_places_weights_and_extras(ggl, tmp_path, monkeypatch):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "weights" / "x").write_bytes(bytes(3_000_000))
    code, out, err = ggl("doctor")
    assert (code, err) == (0, "")
    found = lines(out)
    assert set(found) >= {"ggl", "packages", "device", "processors", "cache", "here", "weights", "extra"}
    assert f"torch {torch.__version__.partition('+')[0]}" in found["packages"][0]
    assert re.fullmatch(rf"{tmp_path}/cache: 3 MB in use, \d+\.\d GB free", found["cache"][0])
    assert "fashion-dcgan32: here" in found["weights"]
    assert "biggan-deep-256: not here: ggl weights fetch biggan-deep-256" in found["weights"]
    assert "network" not in found


def test_a_missing_package_comes_with_its_line(ggl, monkeypatch):
    def version(name):
        if name == "lpips":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor, "version", version)
    _, out, _ = ggl("doctor")
    assert 'lpips: lacks lpips: pip install "lpips>=0.1.4"' in lines(out)["extra"]
    assert not any(line.startswith("dev:") for line in lines(out)["extra"])


@pytest.mark.parametrize(
    ("cuda", "expected"),
    [
        (None, "the CPU: torch is built without CUDA; a GPU needs another build (pytorch.org)"),
        ("13.2", "the CPU: torch is built for CUDA 13.2, but sees no GPU"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert doctor.device_line() == expected


def test_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"H{i}")
    assert doctor.device_line() == "auto takes the first GPU of 2: H0, H1"


def test_threads_and_the_forbidden_network_are_said(ggl, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GGL_OFFLINE", "1")
    _, out, _ = ggl("doctor")
    found = lines(out)
    assert found["threads"] == ["OMP_NUM_THREADS=1 is set, and bounds what one process may use"]
    assert found["network"] == ["GGL_OFFLINE forbids every download"]


def test_a_cache_that_is_not_there_yet_is_no_error(ggl, monkeypatch, tmp_path):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path / "none" / "yet"))
    code, out, _ = ggl("doctor")
    assert code == 0
    assert "0 MB in use" in lines(out)["cache"][0]

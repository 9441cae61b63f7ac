"""Weight files: written whole, read as tensors only, never executed."""

import os
import pickle
import random

import pytest
import torch

from ggl.base.errors import WeightsError
from ggl.base.weights import (
    load_tensors,
    load_tensors_and_metadata,
    save_tensors,
    sha256,
    write_atomically,
)

TENSORS = {
    "weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "steps": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 5, dtype=torch.float64),
    "half": torch.tensor([1.5], dtype=torch.float16),
    "bytes": torch.arange(5, dtype=torch.uint8),
}
FORMATS = ("safetensors", "pt", "legacy.pt")


class MakesFolder:
    """Unpickled by Python's own reader, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save(folder, suffix, tensors=TENSORS):
    path = folder / f"weights.{suffix}"
    if suffix == "safetensors":
        save_tensors(path, tensors)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix == "pt")
    return path


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trip(tmp_path, suffix):
    assert_equal(load_tensors(save(tmp_path, suffix)), TENSORS)


def test_a_view_is_saved_alone(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    save_tensors(tmp_path / "a.safetensors", {"row": whole[1], "column": whole[:, 1]})
    found = load_tensors(tmp_path / "a.safetensors")
    assert found["row"].tolist() == [4, 5, 6, 7]
    assert found["column"].tolist() == [1, 5, 9]


@pytest.mark.parametrize("name", ["search.safetensors", "search.ckpt", "search"])
def test_metadata_round_trip_under_any_suffix(tmp_path, name):
    save_tensors(tmp_path / name, TENSORS, {"identity": "ä/1"})
    tensors, metadata = load_tensors_and_metadata(tmp_path / name)
    assert_equal(tensors, TENSORS)
    assert metadata == {"identity": "ä/1"}


def test_a_file_without_metadata_has_none(tmp_path):
    assert load_tensors_and_metadata(save(tmp_path, "safetensors"))[1] == {}


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_right_hash_passes(tmp_path, suffix):
    path = save(tmp_path, suffix)
    assert_equal(load_tensors(path, expected_sha256=sha256(path)), TENSORS)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1])])
def test_a_file_cut_short_or_altered_is_refused_by_its_hash(tmp_path, suffix, change):
    path = save(tmp_path, suffix)
    expected = sha256(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match="cut short or altered"):
        load_tensors(path, expected_sha256=expected)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_cut_short_anywhere_is_refused_without_a_hash(tmp_path, suffix):
    path = save(tmp_path, suffix)
    content = path.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 100)):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError) as error:
            load_tensors(path)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", FORMATS)
def test_altered_bytes_load_or_are_refused_but_never_break_the_reader(tmp_path, suffix):
    path = save(tmp_path, suffix)
    content, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        altered = bytearray(content)
        altered[draw.randrange(len(altered))] = draw.randrange(256)
        path.write_bytes(altered)
        try:
            load_tensors(path)
        except WeightsError:
            refused += 1
    assert refused > 50


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read \\(No such file"):
        load_tensors(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"weight": b}, lambda b: {"state_dict": {"w": b}}])
@pytest.mark.parametrize("write", [torch.save, lambda b, path: path.write_bytes(pickle.dumps(b, protocol=2))])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, write, wrap):
    path, made = tmp_path / "evil.pt", tmp_path / "made"
    write(wrap(MakesFolder(made)), path)
    with pytest.raises(WeightsError, match=r"refused|damaged"):
        load_tensors(path)
    assert not made.exists()


def test_the_evil_file_would_run_code_in_pythons_own_reader(tmp_path):
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(MakesFolder(made)))
    assert made.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weight": torch.ones(2), "epoch": 3}, "'epoch' is not one"),
        ([torch.ones(2)], "found list"),
        (torch.ones(2), "found Tensor"),
        ({}, "found dict"),
    ],
)
def test_anything_but_a_dict_of_tensors_is_refused(tmp_path, content, reason):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=reason):
        load_tensors(tmp_path / "a.pt")


def test_the_prefix_of_data_parallel_models_is_taken_off(tmp_path):
    torch.save({"module.conv.weight": torch.ones(2), "module.bias": torch.ones(1)}, tmp_path / "a.pt")
    assert set(load_tensors(tmp_path / "a.pt")) == {"conv.weight", "bias"}


def test_a_training_checkpoint_gives_its_state_dict(tmp_path):
    torch.save({"state_dict": {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pt")
    assert set(load_tensors(tmp_path / "a.pt")) == {"weight"}


def test_writing_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, fails):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(fails, full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

"""Weight files: written whole, read as tensors only, never executed."""

import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from ggl.base.errors import WeightsError
from ggl.base.files import write_atomically
from ggl.base.stand_ins import StandIn, as_tensor
from ggl.base.weights import load_state, load_tensors, load_tensors_and_metadata, save_tensors

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
def test_a_file_cut_short_anywhere_is_refused(tmp_path, suffix):
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


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def zipped(path, pickled, **records):
    """Write a torch file of any pickle and storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path


def legacy(path, pickled):
    """Write a file of torch before 1.6 whose object is any pickle."""
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    whole = file.getvalue()
    assert whole.count(b"\x80\x02}q\x00.") == 1
    path.write_bytes(whole.replace(b"\x80\x02}q\x00.", pickled))
    return path


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize(
    "key",
    [
        b")" + b"\x85" * 300_000,
        b"K\x01" + b"K\x01\x86" * 200,
        b"(" * 200 + b"K\x01" + b"t" * 200,
        b")" + b"q\x00h\x00\x85" * 200,
    ],
    ids=["one", "two", "marks", "memo"],
)
def test_a_deeply_nested_key_is_refused_before_torch_hashes_it(tmp_path, monkeypatch, write, key):
    """Torch's reader ends the process on the first of them."""
    path = write(tmp_path / "a.pt", b"\x80\x02}" + key + b"K\x01s.")
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(WeightsError, match="found tuples more than 100 deep; refused; use a file of tensors"):
        load_tensors(path)


@pytest.mark.parametrize("suffix", ["pt", "legacy.pt"])
def test_dictionaries_may_be_deeper_than_tuples(tmp_path, suffix):
    state = torch.ones(2)
    for _ in range(150):
        state = {"state_dict": state}
    path = save(tmp_path, suffix, state)
    with pytest.raises(WeightsError, match="'state_dict' is not one"):
        load_tensors(path)


def test_compressed_members_are_refused(tmp_path):
    path = save(tmp_path, "pt", {"a": torch.zeros(1_000_000)})
    with (
        zipfile.ZipFile(path) as plain,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match="found compressed members, which torch never writes; refused"):
        load_tensors(tmp_path / "b.pt")


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(100_000))
        for _ in range(9):
            archive.filelist.append(archive.filelist[-1])
    with pytest.raises(WeightsError, match="found members larger than the file; refused"):
        load_tensors(path)


def test_a_program_is_refused_without_torchs_advice(tmp_path):
    path = zipped(tmp_path / "a.pt", b"\x80\x02}.", **{"constants.pkl": b"\x80\x02)."})
    with pytest.raises(WeightsError, match="found TorchScript, a program; refused; use a file of tensors"):
        load_tensors(path)


def test_the_refusal_names_what_is_asked_for_and_does_not_advise_to_run_it(tmp_path):
    path = zipped(tmp_path / "a.pt", b"\x80\x02cos\nsy\x1bstem\n.")
    with pytest.raises(WeightsError) as error:
        load_tensors(path)
    assert str(error.value) == (
        f"{path}: expected tensors only, found something else; refused (it asks for 'os.sy\\x1bstem'); "
        "use a file of tensors only, such as .safetensors"
    )


@pytest.mark.filterwarnings("ignore:Validating sparse:UserWarning")
@pytest.mark.parametrize(
    "wrap", [lambda t: {"a": t}, lambda t: {"state_dict": {"a": t}}, lambda t: {"x": [t]}]
)
@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(1).expand(10**5, 10**5), r"a tensor of shape \[100000, 100000\] out of 1 values"),
        (torch.empty(2, device="meta"), "a tensor without plain values"),
        (torch.eye(2).to_sparse(), "a tensor without plain values"),
    ],
    ids=["expanded", "meta", "sparse"],
)
def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path, tensor, found, wrap):
    torch.save(wrap(tensor), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=f"found {found}.*; refused"):
        load_state(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:.*quantized:UserWarning", "ignore:TypedStorage:UserWarning")
def test_a_quantized_tensor_is_refused(tmp_path):
    torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"found a tensor without plain values .*; refused"):
        load_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b'{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "found NoneType"),
        (
            b'{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}',
            "expected tensors of types that torch has",
        ),
    ],
)
def test_an_odd_safetensors_header_is_one_line(tmp_path, header, found):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(WeightsError, match=found):
        load_tensors_and_metadata(path)


@pytest.mark.parametrize("names", [("module.a", "a"), (1, "1")])
def test_names_that_collide_are_refused(tmp_path, names):
    torch.save(dict.fromkeys(names, torch.ones(1)), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="expected each tensor once"):
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


def test_what_names_too_much_is_refused_before_torch_reads_it(tmp_path, monkeypatch):
    names = b"".join(b"cmodule\nname%d\n0" % i for i in range(600))
    path = zipped(tmp_path / "a.pt", b"\x80\x02" + names + b"}.")
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(WeightsError, match="found more than 500 names; refused"):
        load_tensors(path)


class Configuration:
    """Of a class that is there to be imported, and is not."""

    def __init__(self):
        self.rate = 0.1

    def __setstate__(self, state):
        raise AssertionError("the class's own code ran")


def test_values_of_other_classes_are_stand_ins(tmp_path):
    torch.save({"state_dict": TENSORS, "options": Configuration()}, tmp_path / "a.pt")
    allowed = set(torch.serialization.get_safe_globals())
    found = load_state(tmp_path / "a.pt")
    assert_equal(found["state_dict"], TENSORS)
    assert isinstance(found["options"], StandIn)
    assert not isinstance(found["options"], Configuration)
    assert found["options"].state == {"rate": 0.1}
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "builtins.getattr"])
def test_what_runs_something_is_refused_beside_tensors_too(tmp_path, name):
    module, _, function = name.partition(".")
    asked = f"c{module}\n{function}\n".encode()
    path = zipped(tmp_path / "a.pt", b"\x80\x02}" + text(b"options") + asked + text(b"x") + b"\x85Rs.")
    with pytest.raises(WeightsError, match=rf"refused \(it asks for '{name}'\)"):
        load_state(path)


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i8", "f2", "u1", "b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpys_arrays_in_a_torch_file_are_tensors(tmp_path, dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    torch.save({"a": array}, tmp_path / "a.pt")
    found = as_tensor(load_state(tmp_path / "a.pt")["a"])
    assert np.array_equal(found.numpy(), array)
    assert found.numpy().dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([{}], dtype=object), np.array([1j])])
def test_other_arrays_are_no_tensors(tmp_path, array):
    torch.save({"a": array}, tmp_path / "a.pt")
    assert as_tensor(load_state(tmp_path / "a.pt")["a"]) is None


def test_the_only_entry_with_tensors_is_the_state_dict(tmp_path):
    torch.save({"generator": {"module.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "a.pt")
    assert set(load_tensors(tmp_path / "a.pt")) == {"weight"}

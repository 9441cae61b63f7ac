"""Official StyleGAN2-ADA pickles: tensors and settings come out, nothing in the file ever runs."""

import copyreg
import functools
import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from ggl.base.errors import WeightsError
from ggl.generators.stylegan2.inert_pickle import read_pickle
from ggl.generators.stylegan2.official_pickle import read_official

BUFFERS = ("noise_const", "resample_filter", "w_avg")
SETTINGS = {
    "z_dim": 8,
    "c_dim": 0,
    "w_dim": 8,
    "img_resolution": 8,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}
CARRIED = {"conv_clamp": None, "architecture": "skip", "activation": "lrelu", "num_fp16_res": 0}


class Persistent(nn.Module):
    """A module that reduces as official ones do, with its source text beside its attributes."""

    source = "raise SystemExit"

    def __reduce__(self):
        state = {name: value for name, value in self.__dict__.items() if name != "source"}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": self.__dict__.get("_kind", "Layer"),
            "state": state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@contextmanager
def official_names():
    """Let a pickler find the official names, which stay unknown outside of this block."""
    modules = {
        name: types.ModuleType(name)
        for name in ("torch_utils.persistence", "torch_utils", "dnnlib.util", "dnnlib")
    }

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the official reader must not be called")

    easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    modules["dnnlib.util"].EasyDict = easy
    sys.modules.update(modules)
    try:
        yield easy
    finally:
        for name in modules:
            del sys.modules[name]


def network(tensors, settings, attributes=None, source="raise SystemExit"):
    """Return the generator as a tree of modules; call it, and pickle it, within `official_names`."""
    easy = sys.modules["dnnlib.util"].EasyDict
    root = Persistent()
    root._kind, root._init_args = "Generator", ()
    root._init_kwargs = easy({k: easy(v) if isinstance(v, dict) else v for k, v in settings.items()})
    for name, tensor in tensors.items():
        module, leaf = module_at(root, name)
        if leaf in BUFFERS:
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    for name, value in (attributes or {}).items():
        module, leaf = module_at(root, name)
        setattr(module, leaf, value)
    for module in root.modules():
        module.__dict__["source"] = source
    return root


def module_at(root, name):
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, Persistent())
        root = root._modules[part]
    return root, leaf


def official_bytes(tensors, settings, attributes=None, *, source="raise SystemExit", protocol=3, **others):
    with official_names() as easy:
        networks = {key: network(tensors, settings, attributes, source) for key in ("G", "D", "G_ema")}
        networks |= {"training_set_kwargs": easy(class_name="x", use_labels=False), "augment_pipe": None}
        return pickle.dumps({**networks, **others}, protocol=protocol)


def write_official(path, tensors, settings, attributes=None):
    """Write a file in the official layout.

    tensors: by dotted name; `noise_const`, `resample_filter` and `w_avg` become buffers.
    settings: the arguments the generator was made with (z_dim, ..., mapping_kwargs, synthesis_kwargs).
    attributes: plain attributes of layers by dotted name, "synthesis.b8.use_fp16".
    """
    path.write_bytes(official_bytes(tensors, settings, attributes))


def some_tensors():
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "mapping.fc0.weight": (8, 8),
        "mapping.w_avg": (8,),
        "synthesis.b4.const": (8, 4, 4),
        "synthesis.b4.conv1.affine.weight": (8, 8),
        "synthesis.b4.conv1.noise_strength": (),
        "synthesis.b8.resample_filter": (4, 4),
        "synthesis.b8.conv0.weight": (8, 8, 3, 3),
        "synthesis.b8.conv0.noise_const": (8, 8),
    }
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    layout = "synthesis.b8.conv0.weight"
    tensors[layout] = tensors[layout].to(memory_format=torch.channels_last)
    return tensors


def refusal(tmp_path, content):
    """Return the error's text after the file's name."""
    path = tmp_path / "net.pkl"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_official(path)
    message = str(error.value)
    assert message.startswith(f"{path}: expected")
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message.removeprefix(f"{path}: ")


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert not found[name].requires_grad
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_and_settings_come_out_and_the_source_stays_unread(tmp_path, protocol):
    marker, path = tmp_path / "marker", tmp_path / "net.pkl"
    source = f"open({str(marker)!r}, 'w')\n" + "# official sources are long\n" * 300
    path.write_bytes(official_bytes(some_tensors(), SETTINGS, source=source, protocol=protocol))
    assert source.encode()[:50] in path.read_bytes()
    found = read_official(path)
    assert_equal(found.tensors, some_tensors())
    assert found.settings == {
        **SETTINGS,
        **CARRIED,
        "synthesis_kwargs": SETTINGS["synthesis_kwargs"] | CARRIED,
    }
    assert not marker.exists()
    assert not {"torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"} & set(sys.modules)


def test_the_file_would_call_the_official_code_in_pythons_own_reader():
    content = official_bytes(some_tensors(), SETTINGS)
    with pytest.raises(ModuleNotFoundError, match="torch_utils"):
        pickle.loads(content)
    with official_names(), pytest.raises(AssertionError, match="must not be called"):
        pickle.loads(content)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    ],
)
def test_types_are_kept(tmp_path, dtype):
    tensors = {"mapping.w_avg": torch.arange(6).view(2, 3).to(dtype)}
    write_official(tmp_path / "a.pkl", tensors, SETTINGS)
    assert_equal(read_official(tmp_path / "a.pkl").tensors, tensors)


def test_views_transposes_shared_and_empty_tensors(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    tensors = {"a.w_avg": whole[1:], "b.w_avg": whole.T, "c.w_avg": whole[:, 2], "d.w_avg": torch.empty(0, 5)}
    write_official(tmp_path / "a.pkl", tensors, SETTINGS)
    assert_equal(read_official(tmp_path / "a.pkl").tensors, tensors)


def test_what_the_layers_carry_wins_over_the_recorded_arguments(tmp_path):
    attributes = {
        "synthesis.b4.use_fp16": False,
        "synthesis.b8.use_fp16": True,
        "synthesis.b4.architecture": "skip",
        "synthesis.b8.architecture": "skip",
        "synthesis.b4.conv1.conv_clamp": 256,
        "synthesis.b8.conv0.conv_clamp": 256,
        "synthesis.b8.skip.conv_clamp": None,
        "synthesis.b8.conv0.activation": "relu",
        "synthesis.b8.conv0.affine.activation": "linear",
        "mapping.embed.activation": "linear",
        "mapping.fc0.activation": "swish",
    }
    settings = {**SETTINGS, "synthesis_kwargs": {"conv_clamp": None, "num_fp16_res": 4}}
    write_official(tmp_path / "a.pkl", some_tensors(), settings, attributes)
    found = read_official(tmp_path / "a.pkl").settings
    expected = {"conv_clamp": 256, "num_fp16_res": 1, "architecture": "skip", "activation": "relu"}
    assert {name: found[name] for name in expected} == expected
    assert found["mapping_kwargs"] == SETTINGS["mapping_kwargs"] | {"activation": "swish"}
    assert found["synthesis_kwargs"] == expected


def test_arguments_without_layers_that_carry_them_are_taken(tmp_path):
    synthesis = {"conv_clamp": 256, "num_fp16_res": 4, "architecture": "resnet", "activation": "relu"}
    write_official(tmp_path / "a.pkl", some_tensors(), {**SETTINGS, "synthesis_kwargs": synthesis})
    found = read_official(tmp_path / "a.pkl").settings
    assert {name: found[name] for name in synthesis} == found["synthesis_kwargs"] == synthesis


def test_positional_arguments_and_the_modules_own_attributes_are_settings(tmp_path):
    attributes = {
        "_init_args": (8, 0),
        "z_dim": 8,
        "c_dim": 0,
        "w_dim": 16,
        "img_resolution": 8,
        "img_channels": 1,
    }
    write_official(tmp_path / "a.pkl", some_tensors(), {"mapping_kwargs": {}}, attributes)
    found = read_official(tmp_path / "a.pkl").settings
    assert [found[name] for name in ("z_dim", "c_dim", "w_dim", "img_channels")] == [8, 0, 16, 1]
    assert found["mapping_kwargs"] == {}


def test_numbers_of_numpy_and_names_of_torch_become_plain_values(tmp_path):
    odd = {
        "gain": np.float64(2) ** 0.5,
        "half": np.float16(0.25),
        "count": np.int64(-3),
        "flag": np.bool_(True),
        "big": np.dtype(">f4").type(1.5),
        "dtype": torch.float32,
        "device": torch.device("cuda", 1),
        "size": torch.Size([1, 2]),
        "nested": [{"a": (1, None, 2.5, "b")}],
        "members": {3},
    }
    write_official(tmp_path / "a.pkl", {}, {**SETTINGS, "mapping_kwargs": odd})
    found = read_official(tmp_path / "a.pkl").settings["mapping_kwargs"]
    assert found == {
        **{name: odd[name].item() for name in ("gain", "half", "count", "flag", "big")},
        "dtype": "torch.float32",
        "device": "cuda:1",
        "size": (1, 2),
        "nested": odd["nested"],
        "members": [3],
    }
    assert type(found["gain"]) is float


def test_a_numpy_number_in_the_other_byte_order(tmp_path):
    content = official_bytes({}, {**SETTINGS, "img_channels": np.float64(1.5)})
    body = struct.pack("<d", 1.5)
    assert body in content
    content = content.replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>").replace(
        body, struct.pack(">d", 1.5)
    )
    (tmp_path / "a.pkl").write_bytes(content)
    assert read_official(tmp_path / "a.pkl").settings["img_channels"] == 1.5


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 3)),
        np.uint8(3),
        np.int16(-3),
        pathlib.PurePosixPath("/data/images"),
        pathlib.PureWindowsPath("C:/data"),
        {1.5: 1, None: 2, True: 3},
        2**3000,
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int8),
    ],
    ids=str,
)
def test_inert_values_beside_the_generator_do_not_refuse_the_file(tmp_path, value):
    content = official_bytes(some_tensors(), SETTINGS, augment_pipe=value, training_set_kwargs={"x": value})
    (tmp_path / "a.pkl").write_bytes(content)
    assert_equal(read_official(tmp_path / "a.pkl").tensors, some_tensors())


def test_paths_are_text_and_arrays_are_no_settings(tmp_path):
    write_official(tmp_path / "a.pkl", {}, {**SETTINGS, "z_dim": pathlib.PurePosixPath("images/train")})
    assert read_official(tmp_path / "a.pkl").settings["z_dim"] == "images/train"
    content = official_bytes({}, {**SETTINGS, "z_dim": np.zeros(3)})
    assert "its settings hold a _NumpyArray" in refusal(tmp_path, content)


# What a hostile file may ask for ------------------------------------------------------------------


class Calls:
    """Reduces to any call."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def hostile_calls(marker):
    """Calls that would each make the folder `marker` in Python's own reader, and what they ask for."""
    make = f"__import__('os').mkdir({marker!r})"
    return {
        "posix.system": Calls(os.system, f"mkdir {marker}"),
        "posix.mkdir": Calls(os.mkdir, marker),
        "builtins.eval": Calls(eval, make),
        "builtins.exec": Calls(exec, make),
        "functools.partial": Calls(functools.partial(os.mkdir, marker)),
        "subprocess.check_call": Calls(subprocess.check_call, ["mkdir", marker]),
        "torch.serialization.load": Calls(torch.load, marker),
    }


ASKED = list(hostile_calls("x"))


def in_kwargs(evil):
    return official_bytes({}, {**SETTINGS, "mapping_kwargs": {"a": [evil]}})


def in_state(evil):
    return official_bytes({}, SETTINGS, {"synthesis.b4.conv1.evil": evil})


def in_discriminator(evil):
    return official_bytes({}, SETTINGS, D=evil)


def alone(evil):
    return pickle.dumps(evil, protocol=4)


class EvilStorage:
    """Reduces to torch's reader of storages, on a stream that holds `evil` where the storage stands."""

    def __init__(self, evil):
        self.evil = evil

    def __reduce__(self):
        stream = io.BytesIO()
        torch.save(self.evil, stream, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (stream.getvalue(),)


def in_storage(evil):
    return official_bytes({}, SETTINGS, {"mapping.evil": EvilStorage(evil)})


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("place", [alone, in_kwargs, in_state, in_discriminator, in_storage])
def test_calls_are_refused_by_name_and_never_run(tmp_path, asked, place):
    marker = tmp_path / "made"
    message = refusal(tmp_path, place(hostile_calls(str(marker))[asked]))
    assert message.startswith("expected a StyleGAN2-ADA generator, refused: it asks for ")
    # The older protocol of storages names a function as Python 2 did.
    assert message.endswith(f".{asked.rsplit('.')[-1]}")
    if place is not in_storage:
        assert asked in message
    assert not marker.exists()


@pytest.mark.parametrize("wrap", [lambda evil: evil, EvilStorage])
def test_the_same_calls_run_in_pythons_own_reader(tmp_path, wrap):
    marker = tmp_path / "made"
    pickle.loads(pickle.dumps(wrap(hostile_calls(str(marker))["posix.mkdir"])))
    assert marker.exists()


def raw(*parts):
    """Return a pickle in protocol 4 of the parts: names as (module, name), text, or raw opcodes."""

    def written(part):
        if isinstance(part, tuple):
            return b"".join(map(written, part)) + b"\x93"
        if isinstance(part, str):
            return b"X" + struct.pack("<I", len(part.encode())) + part.encode()
        return part

    return b"\x80\x04" + b"".join(map(written, parts)) + b"."


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"\x80\x03cos\nsystem\n.", "it asks for os.system"),
        (raw(("builtins", "getattr"), ("os", "system"), "mkdir", b"\x86R"), "it asks for builtins.getattr"),
        (raw(("__main__", "<lambda>")), "it asks for __main__.<lambda>"),
        (raw(("mypkg.networks", "Generator")), "it asks for mypkg.networks.Generator"),
        (raw(("collections", "OrderedDict.__init__")), "it asks for collections.OrderedDict.__init__"),
        (
            raw(("collections", "OrderedDict.__init__.__globals__")),
            "it asks for collections.OrderedDict.__init__.__globals__",
        ),
        (raw(("dnnlib.util", "EasyDict.__class__.__base__")), "EasyDict.__class__.__base__"),
        (raw(("numpy", "load")), "it asks for numpy.load"),
        (raw(("numpy.core.multiarray", "fromstring")), "it asks for numpy.core.multiarray.fromstring"),
        (raw(("numpy", "ndarray"), b")R"), "it calls numpy.ndarray"),
        (raw(("pathlib", "Path")), "it asks for pathlib.Path"),
        (raw(b"\x8b" + struct.pack("<i", 1025) + b"\x7f" * 1025), "a whole number of more than 8192 bits"),
        (raw(b"}" + b")" + b"\x85" * 20_000 + b"Ns"), "refused: a key is of type tuple, not text"),
        (raw(("os", "line\nbreak\x1b" + "x" * 500)), "it asks for os.line\\nbreak\\x1bxxx"),
        (b"\x80\x02Ptraining/7\n.", "it asks for the persistent object training/7"),
        (raw("seven", b"Q"), "it asks for the persistent object seven"),
        (b"\x80\x02(ios\nsystem\n.", "it asks for os.system"),
        (raw(b"(", ("collections", "OrderedDict"), b"o"), "it holds the operation OBJ"),
        (raw(("torch", "float32"), b")R"), "it calls torch.float32"),
        (raw("os.system", b")R"), "it calls a str"),
        (raw(("collections", "OrderedDict"), b")R)R"), "it calls a dict"),
        (raw(("collections", "OrderedDict"), b"}", "__call__", "x", b"sb"), "it sets the state of a Name"),
        (raw(("collections", "OrderedDict"), b")R}", "__class__", "x", b"sb"), "it sets the state of a dict"),
        (
            raw(("collections", "OrderedDict"), b"N}", "text", "x", b"s\x86b"),
            "it sets the state of a Name",
        ),
        (raw(("numpy", "dtype"), "O", b"\x85R"), "it asks for a numpy type that is no plain number"),
        (raw(("numpy", "dtype"), b")\x85R"), "a numpy type that is no plain number"),
        (raw(("dnnlib.tflib.network", "Network")), "found TensorFlow's; convert it with legacy.py"),
        (raw(b"}", "G", b"Ns", "D", b"Ns"), "it has no key G_ema; its keys: G, D"),
        (raw(b"]"), "it has no key G_ema; its keys: none"),
        (raw(b"}", "G_ema", b"}s"), "its G_ema is no network, but of type dict"),
    ],
)
def test_odd_requests_are_refused_by_name(tmp_path, content, asked):
    message = refusal(tmp_path, content)
    assert message.startswith("expected a StyleGAN2-ADA generator")
    assert asked in message


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "expected a StyleGAN2-ADA pickle, found an empty file"),
        (b"PK\x03\x04", "found a zip archive (torch.save); give the official .pkl file"),
        (b"<html>", "expected a StyleGAN2-ADA pickle, found another kind of file"),
        (raw(b"\xff"), "found a damaged file (no operation at byte 3); fetch it again"),
        (raw(b"\x8e" + b"\xff" * 7 + b"\x3f"), "found a damaged file"),  # bytes of almost 2⁶² length
        (raw(b"\x95" + b"\xff" * 8 + b"N"), "its keys: none"),  # a frame of 2⁶⁴ bytes is the pickler's affair
        (raw(b"Nr\xff\xff\xff\x7f"), "its keys: none"),  # a memo index that takes 64 GB elsewhere
        (
            raw(("pathlib", "PosixPath"), b"(", "x" * 4096, b"q\x00" + b"h\x00" * 9 + b"tR"),
            "path is too long",
        ),
        (raw(b"]" * 20_000 + b"a" * 19_999), "its keys: none"),
        (raw(b"}(NNNu"), "found a damaged file (items are put into"),
        (raw(b"}(u", b"]", b"(NNeb"), "it sets the state of a dict"),
        (raw(b"NNe"), "found a damaged file"),
        (raw(b"R"), "found a damaged file (an operation misses its arguments)"),
        (raw(b"h\x07"), "found a damaged file (7)"),
        (raw(("collections", "OrderedDict"), b"]\x85R"), "found a damaged file"),
        (raw(("torch", "Size"), "abc", b"\x85R"), "the members of a set or size are no list"),
    ],
)
def test_damaged_files_and_bombs_are_refused(tmp_path, content, found):
    assert found in refusal(tmp_path, content)


def test_registered_extensions_are_refused(tmp_path):
    copyreg.add_extension("posix", "system", 0x77)
    try:
        content = pickle.dumps(os.system, protocol=4)
    finally:
        copyreg.remove_extension("posix", "system", 0x77)
    assert content[2:3] == pickle.EXT1
    assert refusal(tmp_path, content).endswith("refused: it asks for the registered extension 119")


def test_stand_ins_stay_what_they_were_after_a_hostile_file(tmp_path):
    for content in (
        raw(("collections", "OrderedDict"), b"}", "text", "os.system", b"sb"),
        raw(("torch", "Size"), b"N}", "__defaults__", b"))\x85s\x86b"),
    ):
        refusal(tmp_path, content)
    write_official(tmp_path / "a.pkl", some_tensors(), SETTINGS)
    assert_equal(read_official(tmp_path / "a.pkl").tensors, some_tensors())


# Storages and views -------------------------------------------------------------------------------


def stored(values):
    """Return the legacy stream of a tensor's storage, as torch writes it."""
    return values.__reduce_ex__(3)[1][0].__reduce__()[1][0]


def as_parameter(build):
    """Return an official file whose one parameter is what `build` reduces to."""
    with official_names():
        layer = network({}, SETTINGS)
        layer._parameters["weight"] = build
        return pickle.dumps({"G_ema": layer}, protocol=4)


class StorageOf:
    """Reduces to torch's reader of storages, on the given bytes."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def view(offset=0, size=(2, 3), stride=(3, 1), storage=None):
    storage = stored(torch.arange(6.0)) if storage is None else storage
    hooks = OrderedDict()
    return Calls(torch._utils._rebuild_tensor_v2, StorageOf(storage), offset, size, stride, False, hooks)


def test_the_view_of_these_tests_is_read(tmp_path):
    (tmp_path / "a.pkl").write_bytes(as_parameter(view(1, (5,), (1,))))
    assert read_official(tmp_path / "a.pkl").tensors["weight"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "odd",
    [
        {"offset": 1},
        {"size": (3, 3)},
        {"stride": (4, 1)},
        {"stride": (0, 0), "size": (1000, 1000)},
        {"offset": 6, "size": (), "stride": ()},
        {"offset": 2**31 - 1, "size": (), "stride": ()},
    ],
)
def test_views_outside_of_their_storage_are_refused(tmp_path, odd):
    assert "reads outside its 6 values" in refusal(tmp_path, as_parameter(view(**odd)))


@pytest.mark.parametrize(
    "odd",
    [
        {"offset": -1},
        {"offset": 1.0},
        {"offset": 2**63},
        {"stride": (-3, 1)},
        {"size": (2, True)},
        {"size": (2,)},
        {"size": (0, 2**40), "stride": (1, 1)},
        {"size": (1,) * 9, "stride": (1,) * 9},
        {"size": "ab"},
        {"stride": None},
    ],
)
def test_odd_views_are_refused(tmp_path, odd):
    assert "found a damaged file" in refusal(tmp_path, as_parameter(view(**odd)))


GOOD = stored(torch.arange(6.0))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:-1],
        GOOD + b"x",
        GOOD[:100],
        GOOD.replace(b"torch\nFloatStorage", b"torch\nHalfStorage"),
        GOOD.replace(b"\x88", b"\x89"),  # little_endian false
        GOOD.replace(b"\xf9", b"\xf8"),  # the magic number
        GOOD.replace(struct.pack("<q", 6), struct.pack("<q", -1)),
        GOOD.replace(b"K\x06", b"K\x07"),
        GOOD.replace(b"storage", b"storagf"),
    ],
)
def test_odd_storages_are_refused(tmp_path, content):
    assert content != GOOD
    assert "found a damaged file" in refusal(tmp_path, as_parameter(view(storage=content)))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (b"os\nsystem", "os.system"),
        (b"torch\nload", "torch.load"),
        (b"torch\nQInt8Storage", "torch.QInt8Storage"),
    ],
)
def test_a_storage_that_asks_for_something_else_is_refused_by_name(tmp_path, name, asked):
    content = GOOD.replace(b"torch\nFloatStorage", name)
    assert refusal(tmp_path, as_parameter(view(storage=content))).endswith(f"refused: it asks for {asked}")


@pytest.mark.parametrize("value", [3, [1.0], OrderedDict(), torch.Size([1])])
def test_a_parameter_that_is_no_tensor_is_refused(tmp_path, value):
    assert "_parameters hold something that is no tensor" in refusal(tmp_path, as_parameter(value))


class ParameterOf:
    """Reduces to a tensor of `size` values of a shared stream."""

    def __init__(self, stream, size):
        self.stream, self.size = stream, size

    def __reduce__(self):
        view_of = (StorageOf(self.stream), 0, (self.size,), (1,), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, view_of


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize("shared", [True, False])
def test_one_storage_asked_for_many_times_is_refused(tmp_path, size, shared):
    """A view of one value takes its whole storage; one tensor under many names is copied later."""
    stream = stored(torch.zeros(5000))
    tensors = [ParameterOf(stream, size)] * 40 if shared else [ParameterOf(stream, size) for _ in range(40)]
    with official_names():
        root = network({}, SETTINGS)
        root._parameters.update({f"p{i}": tensor for i, tensor in enumerate(tensors)})
        content = pickle.dumps({"G_ema": root}, protocol=4)
    assert len(content) < 30_000
    wanted = f"its tensors ask for {40 * 20_000} bytes, the file has {len(content)}"
    assert refusal(tmp_path, content).endswith(wanted)


# Trees and tables ---------------------------------------------------------------------------------


def altered(change):
    """Return an official file after `change` of the generator's root."""
    with official_names():
        root = network(some_tensors(), SETTINGS)
        change(root)
        return pickle.dumps({"G_ema": root}, protocol=4)


def doubled(levels, join):
    value = join()
    for _ in range(levels):
        value = join(value, value)
    return value


def layer_of(*children):
    layer = Persistent()
    layer.source = ""
    for name, child in zip("ab", children, strict=False):
        layer.add_module(name, child)
    return layer


@pytest.mark.parametrize("levels", [13, 15, 60])
def test_a_tree_that_unfolds_without_end_is_refused(tmp_path, levels):
    tree = doubled(levels, layer_of)
    content = altered(lambda root: root.add_module("more", tree))
    assert "its modules are no finite tree" in refusal(tmp_path, content)


@pytest.mark.parametrize("levels", [8, 60])
@pytest.mark.parametrize("join", [lambda *v: list(v), lambda *v: dict(enumerate(v))])
def test_settings_that_unfold_without_end_are_refused(tmp_path, levels, join):
    content = altered(lambda root: root._init_kwargs.update(mapping_kwargs=doubled(levels, join)))
    assert "its settings are no finite table" in refusal(tmp_path, content)


CLAMPS = (("synthesis.b4", 1), ("synthesis.b8", 2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: setattr(root, "_init_kwargs", [1]), "arguments of the generator are not recorded"),
        (lambda root: root._init_kwargs.update(mapping_kwargs=3), "mapping_kwargs is no dictionary"),
        (lambda root: root._init_kwargs.update(z_dim=b"8"), "its settings hold a bytes"),
        (lambda root: root._init_kwargs.update(z_dim="x" * 5000), "its settings hold a SkippedText"),
        (lambda root: root._init_kwargs.update({2**40: 1}), "a key is of type int"),
        (lambda root: root._init_kwargs.update({(1,): 1}), "a key is of type tuple"),
        (lambda root: root._modules.update(more=3), "its modules are no finite tree"),
        (lambda root: root._buffers.update({"a.b": None}), "_buffers holds an odd name"),
        (lambda root: root._buffers.update({"": None}), "_buffers holds an odd name"),
        (lambda root: root._buffers.update({"x" * 65: None}), "_buffers holds an odd name"),
        (lambda root: root._buffers.update({7: None}), "_buffers holds an odd name"),
        (lambda root: setattr(root, "_buffers", [1]), "_buffers is no dictionary"),
        (
            lambda root: [setattr(root.get_submodule(n), "conv_clamp", c) for n, c in CLAMPS],
            "its layers differ in conv_clamp",
        ),
    ],
)
def test_odd_generators_are_refused(tmp_path, change, reason):
    assert reason in refusal(tmp_path, altered(change))


def meta_of(**changes):
    with official_names():
        call = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        meta = {"type": "class", "version": 6, "class_name": "Generator", "state": {}} | changes
        return pickle.dumps({"G_ema": Calls(call, meta)}, protocol=4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "function"}, "a network is not described as a class"),
        ({"version": 7}, "a network is not in version 6 of the layout"),
        ({"class_name": None}, "a network has no name or no attributes"),
        ({"state": []}, "a network has no name or no attributes"),
    ],
)
def test_networks_in_another_layout_are_refused(tmp_path, changes, reason):
    assert reason in refusal(tmp_path, meta_of(**changes))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot be read \(No such file"):
        read_official(tmp_path / "nothing.pkl")


# Damage -------------------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    content = official_bytes({"synthesis.b4.const": torch.ones(2, 2)}, SETTINGS, G=None, D=None)
    for length in range(0, len(content), max(1, len(content) // 80)):
        refusal(tmp_path, content[:length])


def is_refused(path, content):
    """Whether the content is refused; anything but that and a success ends the test."""
    path.write_bytes(content)
    try:
        read_official(path)
    except WeightsError:
        return True
    return False


@pytest.mark.parametrize("protocol", [3, 4])
def test_altered_bytes_load_or_are_refused_but_never_break_the_reader(tmp_path, protocol):
    content = official_bytes({"w_avg": torch.ones(2)}, SETTINGS, protocol=protocol, G=None, D=None)
    draw, refused = random.Random(protocol), 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 1, 3])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        refused += is_refused(tmp_path / "a.pkl", damaged)
    assert 30 < refused < 150


def test_random_operations_never_break_the_reader(tmp_path):
    draw = random.Random(0)
    names = [("collections", "OrderedDict"), ("numpy", "dtype"), ("torch._utils", "_rebuild_tensor_v2")]
    steps = [bytes([code]) for code in b"N)}]((\x88\x85\x86\x87tuaesRb\x81\x94Q"]
    steps += [b"K\x01", b"h\x00", "f8", *names]
    for _ in range(300):
        assert is_refused(tmp_path / "a.pkl", raw(b"N\x94}", *draw.choices(steps, k=12)))


def test_the_reader_of_plain_pickles_agrees_with_pythons_own():
    value = {"a": [1, -5, 2**40, 2.5, True, None, "ä", b"b", (), (1,), (1, 2, 3, 4), {"x": {1: [()]}}]}
    value["again"] = value["a"]
    for protocol in (3, 4, 5):
        found = read_pickle(io.BytesIO(pickle.dumps(value, protocol=protocol)), {})
        assert found == value
        assert found["again"] is found["a"]

"""A network's weights in every packing that trainers and frameworks write; or a line that names it."""

import argparse
import collections
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from ggl.base.errors import GGLError, InputError, WeightsError
from ggl.base.network_weights import read_weights


def network(width=4, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(4 * width, 3)
        made = nn.Sequential(*layers).eval()
        made[1].running_mean.normal_()
        return made


STATE = network(seed=1).state_dict()
OTHER = network(seed=2).state_dict()
NAMES = list(STATE)
PARAMETERS = [name for name, _ in network().named_parameters()]
COUNTED = "1.num_batches_tracked"
ORDERED = "9 arrays without names, in the order of the state dict"
WITHOUT_COUNTS = "without num_batches_tracked, which no gradient depends on"


def prefixed(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


def read(folder, content, model=None, name="w.pt", **options):
    torch.save(content, folder / name)
    return read_weights(folder / name, model or network(), **options)


def assert_state(found, expected=STATE):
    assert list(found.tensors) == NAMES
    for name, tensor in expected.items():
        assert torch.equal(found.tensors[name].to(tensor.dtype), tensor)


def refused(folder, content, message, kind=WeightsError, **options):
    with pytest.raises(kind, match=message) as error:
        read(folder, content, **options)
    assert "\n" not in str(error.value)
    assert str(folder / options.get("name", "w.pt")) in str(error.value)


class Options(dict):
    """A dictionary of a class of its own, as trainers keep hyperparameters in."""


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(4, 1, 3, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
BESIDE = {
    "epoch": 3,
    "best_acc": np.float64(91.2),
    "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
    "hyper_parameters": Options(lr=0.1),
    "history": collections.deque([1.0]),
    "losses": collections.defaultdict(list, train=[1.0]),
    "rng": np.random.RandomState(0).get_state(),
    "loss": torch.tensor(0.3),
    "optimizer": OPTIMIZER,
}

PACKINGS = {
    "plain": (STATE, ""),
    "module.": (prefixed("module."), "'module.' taken off the names"),
    "_module.": (prefixed("_module."), "'_module.' taken off the names"),
    "_orig_mod.module.": (prefixed("_orig_mod.module."), "'_orig_mod.module.' taken off the names"),
    "state_dict": ({"state_dict": STATE, **BESIDE}, "entry 'state_dict'"),
    "net": ({"net": prefixed("module."), "acc": 91.2}, "entry 'net'; 'module.' taken off the names"),
    "model": ({"model": STATE, "train_conf": {"train": {"model": "Net"}}}, "entry 'model'"),
    "model_state_dict": ({"model_state_dict": STATE, **BESIDE}, "entry 'model_state_dict'"),
    "nested": ({"states": {"network": {"weights": STATE}}}, "entry 'states.network.weights'"),
    "lightning": (
        {"state_dict": {**prefixed("model."), "criterion.weight": torch.ones(3)}, **BESIDE},
        "entry 'state_dict'; 'model.' taken off the names; left aside: 'criterion'",
    ),
    "swa": (
        {**prefixed("module."), "n_averaged": torch.tensor(3)},
        "'module.' taken off the names; left aside: 'n_averaged'",
    ),
    "compiled inside": (
        {name.replace("3.", "_orig_mod.3.") if name[0] == "3" else name: t for name, t in STATE.items()},
        "'_orig_mod.' taken off the names",
    ),
    "module. before some": (
        {f"module.{name}" if name[0] == "0" else name: tensor for name, tensor in STATE.items()},
        "'module.' taken off the names",
    ),
    "the same twice": ({"model": STATE, "ema": prefixed("module.")}, "entry 'model'"),
    "no counts": ({name: t for name, t in STATE.items() if name != COUNTED}, WITHOUT_COUNTS),
    "with an epoch": ({**STATE, "epoch": 3}, "left aside: 'epoch'"),
    "numpy arrays": ({name: tensor.numpy() for name, tensor in STATE.items()}, ""),
    "numpy, big-endian": (
        {n: t.numpy().astype(t.numpy().dtype.newbyteorder()) for n, t in STATE.items()},
        "",
    ),
    "list of tensors": (list(STATE.values()), ORDERED),
    "list of arrays": ([t.numpy() for t in STATE.values()], ORDERED),
    "list in an entry": ({"parameters": list(STATE.values())}, f"entry 'parameters'; {ORDERED}"),
    "list without counts": (
        [t for name, t in STATE.items() if name != COUNTED],
        f"{ORDERED.replace('9', '8')} without num_batches_tracked; {WITHOUT_COUNTS}",
    ),
    "parameters": ({n: nn.Parameter(t) if t.is_floating_point() else t for n, t in STATE.items()}, ""),
    "float64": ({n: t.double() if t.is_floating_point() else t for n, t in STATE.items()}, ""),
    "not contiguous": ({n: t.mT.contiguous().mT if t.ndim > 1 else t for n, t in STATE.items()}, ""),
    "a count as a float": (STATE | {COUNTED: torch.tensor(0.0)}, ""),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_a_packing_is_read_and_said(tmp_path, name):
    content, note = PACKINGS[name]
    found = read(tmp_path, content)
    assert_state(found)
    assert found.note == (f"w.pt: {note}" if note else "")
    assert not any(tensor.requires_grad for tensor in found.tensors.values())


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w.pth.tar", "w.bin", "w.anything", "w"])
@pytest.mark.parametrize("new", [True, False])
def test_torch_files_of_any_suffix_and_age(tmp_path, name, new):
    torch.save({"model": STATE, **BESIDE}, tmp_path / name, _use_new_zipfile_serialization=new)
    assert_state(read_weights(tmp_path / name, network()))


def test_a_listed_npz_is_read_in_the_order_of_its_numbers(tmp_path):
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    np.savez(tmp_path / "w.npz", *[tensor.numpy() for tensor in deep.state_dict().values()])
    found = read_weights(tmp_path / "w.npz", nn.Sequential(*(nn.Linear(2, 2) for _ in range(6))))
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in deep.state_dict().items())
    assert found.note == "w.npz: 12 arrays without names, in the order of the state dict"


def test_safetensors_and_npz_under_other_suffixes(tmp_path):
    save_file(prefixed("module."), tmp_path / "a.ckpt", {"format": "pt"})
    assert_state(read_weights(tmp_path / "a.ckpt", network()))
    np.savez_compressed(tmp_path / "b.npz", **{name: t.numpy() for name, t in STATE.items()})
    (tmp_path / "b.npz").rename(tmp_path / "b.weights")
    assert_state(read_weights(tmp_path / "b.weights", network()))


def test_half_precision_is_said_with_its_rounding(tmp_path):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in STATE.items()}
    found = read(tmp_path, halves)
    assert found.tensors["3.bias"].dtype == torch.float16
    assert found.note == "w.pt: float16, each weight rounded by up to 0.0005 of itself"
    rounded = (STATE["3.weight"] - halves["3.weight"].float()).abs() / STATE["3.weight"].abs()
    assert 0.0001 < rounded.max() <= 0.0005
    brains = {name: t.bfloat16() if t.is_floating_point() else t for name, t in STATE.items()}
    assert read(tmp_path, brains).note == "w.pt: bfloat16, each weight rounded by up to 0.004 of itself"


@pytest.mark.parametrize("listed", [True, False])
def test_parameters_alone_do_in_train_mode_and_eval_mode_says_what_it_needs(tmp_path, listed):
    content = [STATE[n] for n in PARAMETERS] if listed else {n: STATE[n] for n in PARAMETERS}
    found = read(tmp_path, content, network().train())
    assert_state(found, {name: STATE[name] for name in PARAMETERS})
    assert found.found == set(PARAMETERS)
    assert torch.equal(found.tensors["1.running_mean"], network()[1].running_mean)
    assert found.note.endswith(f"{WITHOUT_COUNTS}; without running statistics, which train mode does not use")
    message = (
        "expected running statistics of batch normalization, which eval mode uses, such as '1.running_mean', "
        r"found none; give the whole model.state_dict\(\), or take train mode"
    )
    refused(tmp_path, content, message)
    assert_state(read(tmp_path, content, whole=False), {name: STATE[name] for name in PARAMETERS})


def test_buffers_that_a_network_makes_itself_stay_where_only_parameters_are_given(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.5]))
            self.fc = nn.Linear(2, 2)

    found = read(tmp_path, dict(nn.ModuleDict({"fc": nn.Linear(2, 2)}).state_dict()), Scaled())
    assert found.tensors["mean"] == 0.5
    assert found.note == "w.pt: without 'mean', as the network makes it"


def test_one_name_of_a_tied_parameter_is_enough(tmp_path):
    def tied():
        made = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        made["b"].weight = made["a"].weight
        return made

    saved = tied()
    save_model(saved, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors", tied())
    assert torch.equal(found.tensors["a.weight"], saved["a"].weight)
    assert torch.equal(found.tensors["b.weight"], saved["a"].weight)


def test_a_network_whose_own_names_bear_a_wrappers(tmp_path):
    wrapped = nn.ModuleDict({"module": network()})
    assert torch.equal(read(tmp_path, STATE, wrapped).tensors["module.3.bias"], STATE["3.bias"])
    assert torch.equal(read(tmp_path, prefixed("module."), wrapped).tensors["module.3.bias"], STATE["3.bias"])


TWO = {"model": STATE, "model_ema": OTHER}
STUDENTS = {"state_dict": {**prefixed("student."), **prefixed("teacher.", OTHER)}}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (TWO, "model_ema"),
        (STUDENTS, "teacher"),
        (STUDENTS, "state_dict.teacher"),
        ({"nets": TWO}, "nets.model_ema"),
        ({"ema": {"state_dict": prefixed("module.", OTHER)}, "model": STATE}, "ema"),
        ({**prefixed("net.a."), **prefixed("net.b.", OTHER)}, "net.b"),
        ({"now": list(STATE.values()), "mean": list(OTHER.values())}, "mean"),
    ],
)
def test_a_key_chooses_between_networks_and_without_one_it_is_asked_for(tmp_path, content, key):
    assert_state(read(tmp_path, content, key=key), OTHER)
    refused(
        tmp_path,
        content,
        "expected one network with these names, found 2: .*; name one by key=, as in FILE,key=",
    )


def test_the_keys_that_are_asked_for_work(tmp_path):
    message = "found 2: 'state_dict.student', 'state_dict.teacher'; .*, as in FILE,key=state_dict.student$"
    refused(tmp_path, STUDENTS, message)
    assert_state(read(tmp_path, STUDENTS, key="state_dict.student"))
    refused(
        tmp_path,
        TWO,
        "expected an entry 'net', found model, model_ema; name one of those with key=",
        key="net",
    )


def test_shapes_decide_between_networks_of_the_same_names(tmp_path):
    assert_state(read(tmp_path, {"teacher": network(width=8).state_dict(), "student": STATE}))


WRONG = [
    (
        {"net": prefixed("module.", network(width=8).state_dict())},
        r"entry 'net', 'module.' taken off: '0.weight': expected float \[4, 1, 3, 3\], found float "
        r"\[8, 1, 3, 3\] \(also '0.bias': .*, '1.weight': .*, '1.bias': .*, and 3 more\); use the arch",
    ),
    (
        {n: t for n, t in STATE.items() if n != "3.bias"},
        r"t: '3.bias': expected float \[3\], found no such tensor; use",
    ),
    ({**STATE, "total_ops": torch.ones(1)}, r"'total_ops': expected no such tensor, found float \[1\]; use"),
    (STATE | {"3.bias": torch.ones(3).int()}, r"'3.bias': expected float \[3\], found int32 \[3\]"),
    (
        STATE | {"3.bias": torch.tensor([1, np.nan, 0])},
        "'3.bias': expected finite values, found NaN or infinity; ",
    ),
    (
        list(STATE.values())[:5],
        "expected as many arrays as the network has: 9 in the order of the state dict, or 8 in the order of "
        "the state dict without num_batches_tracked, or 6 in the order of the parameters; found 5; use",
    ),
    (
        network(),
        "found an object of class 'torch.nn.modules.container.Sequential', which only its code could open; "
        "refused; save the network's own",
    ),
    ({"model": network(), "epoch": 1}, "found as entry 'model' an object of class 'torch.nn.*Sequential'"),
    ({}, "expected a state dict of tensors, found dict without any"),
    ("words", "expected a state dict of tensors, found str without any"),
    ({"w": torch.ones(2), "epoch": 3}, r"'0.weight': expected float \[4, 1, 3, 3\], found no such tensor"),
    (
        STATE | {"3.bias": torch.ones(3).to_sparse()},
        r"values \(sparse: save it after to_dense\(\)\) as '3.bias'; refused",
    ),
    (STATE | {"3.bias": torch.ones(3, device="meta")}, r"\(on meta, .*\) as '3.bias'; refused"),
]


@pytest.mark.filterwarnings("ignore:Validating sparse:UserWarning")
@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, content, message):
    refused(tmp_path, content, message)


def objects(path):
    np.savez(path, np.array([np.ones(2), np.ones(3)], dtype=object))


def plain_pickle(path):
    path.write_bytes(pickle.dumps([np.ones(2)]))


def program(path):
    torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)).save(path)


OTHER_FILES = {
    "objects.npz": (objects, r"Object arrays .*; write it again with one array an argument: np.savez"),
    "one.npy": (lambda path: np.save(path, np.ones(2)), r"found one NumPy array \(.npy\): write np.savez"),
    "list.pkl": (plain_pickle, "found a plain pickle: write a state dict by torch.save"),
    "keras.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "found HDF5, such as Keras writes"),
    "model.onnx": (lambda path: path.write_bytes(b"\x08\x07"), "a torch file .*, found '.onnx'"),
    "model.safetensors.index.json": (
        lambda path: path.write_text('{"a": 1}'),
        "found JSON, such as the index",
    ),
    "model-00001-of-00002.safetensors": (lambda path: save_file(STATE, path), "found one part of it"),
    "folder": (
        lambda path: (path.mkdir(), (path / "__0_0.distcp").touch()),
        "found a folder with __0_0.distcp",
    ),
    "script.pt": (program, "found TorchScript, a program; refused"),
    "new.pt": (
        lambda path: torch.save(STATE, path, pickle_protocol=4),
        "found pickle protocol 4: write it by",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_named_for_what_they_are(tmp_path, name):
    write, message = OTHER_FILES[name]
    write(tmp_path / name)
    with pytest.raises(GGLError, match=message) as error:
        read_weights(tmp_path / name, network())
    assert isinstance(error.value, WeightsError | InputError)
    assert "\n" not in str(error.value)

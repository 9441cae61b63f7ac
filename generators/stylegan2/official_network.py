"""The networks of an official StyleGAN2-ADA pickle as inert records: tensors, attributes, arguments."""

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ggl.generators.stylegan2.inert_pickle import LONGEST_TEXT, Maker, Name, Stateful
from ggl.generators.stylegan2.official_tensors import TENSOR_MAKERS, StoredTensor

__all__ = ["MAKERS", "Module", "modules_of", "settings_of", "tensors_of"]

ARGUMENTS = (
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "mapping_kwargs",
    "synthesis_kwargs",
)
"""Of the official generator, in its order; the first five are attributes of the module too."""

DEFAULTS: dict[str, object] = {
    "conv_clamp": None,
    "architecture": "skip",
    "activation": "lrelu",
    "num_fp16_res": 0,
}
"""Of the official synthesis network, where neither its layers nor its arguments say."""

NUMPY_TYPES = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
"""Their letters for `struct`."""

PATH_MODULES = ("pathlib", "pathlib._local")
PATH_KINDS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")

LAYOUT_VERSION = 6
MOST_MODULES = 10_000
MOST_TENSORS = 100_000
DEEPEST = 16
LONGEST_NAME = 64
DEEPEST_VALUE = 8
MOST_VALUES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A network's class name and its attributes."""

    class_name: str
    state: dict[object, object]


def _module(meta: object) -> object:
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise ValueError("a network is not described as a class")
    if meta.get("version") != LAYOUT_VERSION:
        raise pickle.UnpicklingError(f"a network is not in version {LAYOUT_VERSION} of the layout")
    name, state = meta["class_name"], meta["state"]
    if type(name) is not str or not isinstance(state, dict):
        raise ValueError("a network has no name or no attributes")
    return Module(name, state)


class _NumpyType(Stateful):
    """A numpy type of plain numbers; its state says the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if type(code) is not str or code not in NUMPY_TYPES:
            raise pickle.UnpicklingError("it asks for a numpy type that is no plain number")
        self.letter, self.order = NUMPY_TYPES[code], "<"

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a numpy type has no byte order")
        self.order = ">" if state[1] == ">" else "<"


class _NumpyArray(Stateful):
    """Stands for an array of numpy; what it holds is dropped."""

    def __init__(self, *_: object) -> None:
        """Take the arguments of numpy's own maker, which say nothing yet."""

    def build(self, state: object) -> None:
        """Drop the state: shape, type and bytes."""


def _numpy_scalar(kind: object, content: object) -> object:
    if not isinstance(kind, _NumpyType) or not isinstance(content, bytes):
        raise ValueError("a numpy number has no type or no bytes")
    return struct.unpack(kind.order + kind.letter, content)[0]


def _dictionary() -> object:
    return {}


def _members(values: object = ()) -> object:
    if not isinstance(values, list | tuple):
        raise ValueError("the members of a set or size are no list")
    return values


def _device(*parts: object) -> object:
    return _joined(":", parts)


def _path(*parts: object) -> object:
    return _joined("/", parts)


def _joined(separator: str, parts: tuple[object, ...]) -> str:
    texts = [str(part) for part in parts if isinstance(part, str | int)]
    if sum(map(len, texts)) > LONGEST_TEXT:
        raise ValueError("a device or a path is too long")
    return separator.join(texts)


MAKERS: dict[str, Maker | None] = {
    **TENSOR_MAKERS,
    **dict.fromkeys(("collections.OrderedDict", "dnnlib.util.EasyDict"), _dictionary),
    **dict.fromkeys(("builtins.set", "__builtin__.set", "torch.Size"), _members),
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), _numpy_scalar),
    **dict.fromkeys(("torch.float16", "torch.float32", "torch.float64", "torch.bfloat16")),
    "numpy.dtype": _NumpyType,
    **dict.fromkeys(
        ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"), _NumpyArray
    ),
    "numpy.ndarray": None,
    "torch.device": _device,
    **{f"{module}.{kind}": _path for module in PATH_MODULES for kind in PATH_KINDS},
    "torch_utils.persistence._reconstruct_persistent_obj": _module,
}
"""All that an official file asks for; None is a name that stands for itself."""


def _entries(module: Module, key: str) -> Iterator[tuple[str, object]]:
    """Yield the named values under `key` that are set; a file may leave out an empty dictionary."""
    entries = module.state.get(key, {})
    if not isinstance(entries, dict):
        raise ValueError(f"{key} is no dictionary")
    for name, value in entries.items():
        if type(name) is not str or not 0 < len(name) <= LONGEST_NAME or "." in name:
            raise ValueError(f"{key} holds an odd name")
        if value is not None:
            yield name, value


def modules_of(root: Module) -> dict[str, Module]:
    """Return the tree's modules by dotted name; a tree that holds itself is refused."""
    found, waiting = {"": root}, [("", root)]
    for prefix, module in waiting:
        for name, child in _entries(module, "_modules"):
            path = f"{prefix}.{name}".removeprefix(".")
            if not isinstance(child, Module) or path.count(".") >= DEEPEST or len(found) >= MOST_MODULES:
                raise pickle.UnpicklingError("its modules are no finite tree of networks")
            found[path] = child
            waiting.append((path, child))
    return found


def tensors_of(modules: dict[str, Module], most_bytes: int) -> dict[str, Tensor]:
    """Return parameters and buffers by dotted name, of at most `most_bytes` in all.

    A storage that stands in the file once may be asked for any number of times.
    """
    stored: dict[str, StoredTensor] = {}
    for path, module in modules.items():
        for key in ("_parameters", "_buffers"):
            for name, value in _entries(module, key):
                if not isinstance(value, StoredTensor) or len(stored) >= MOST_TENSORS:
                    raise pickle.UnpicklingError(f"its {key} hold something that is no tensor, or too many")
                stored[f"{path}.{name}".removeprefix(".")] = value
    asked = sum(value.nbytes for value in stored.values())
    if asked > most_bytes:
        raise pickle.UnpicklingError(f"its tensors ask for {asked} bytes, the file has {most_bytes}")
    return {name: value.tensor for name, value in stored.items()}


def settings_of(modules: dict[str, Module]) -> dict[str, object]:
    """Return the generator's arguments as plain values, and what its layers say beyond them.

    `DEFAULTS` stand beside the arguments and within synthesis_kwargs; activation in mapping_kwargs too.
    They are taken from the layers first, since the official code bases differ in their defaults.
    """
    state = modules[""].state
    positional, named = _plain(state.get("_init_args", ())), _plain(state.get("_init_kwargs", {}))
    if not isinstance(positional, list | tuple) or not isinstance(named, dict):
        raise ValueError("the arguments of the generator are not recorded as such")
    settings = {name: _plain(state[name]) for name in ARGUMENTS[:5] if name in state}
    settings |= dict(zip(ARGUMENTS, positional, strict=False)) | named
    for part in ARGUMENTS[5:]:
        settings[part] = _table(settings.get(part), part)
    synthesis = _table(settings["synthesis_kwargs"], "synthesis_kwargs")
    carried = {name: synthesis.get(name, default) for name, default in DEFAULTS.items()}
    carried |= _carried(modules)
    mapping = _table(settings["mapping_kwargs"], "mapping_kwargs") | _mapping_activation(modules)
    return settings | carried | {"synthesis_kwargs": synthesis | carried, "mapping_kwargs": mapping}


def _carried(modules: dict[str, Module]) -> dict[str, object]:
    """Return those of `DEFAULTS` that the layers of the synthesis network carry, one value for all."""
    # The residual architecture's skip layers are never clamped; they and the affine ones are linear.
    others = (".skip", ".affine")
    paths = [path for path in modules if path.startswith("synthesis") and not path.endswith(others)]
    layers = [modules[path].state for path in paths]
    carried: dict[str, object] = {}
    for name in ("conv_clamp", "architecture", "activation"):
        carried |= _agreed(layers, name)
    if any("use_fp16" in state for state in layers):
        carried["num_fp16_res"] = sum(state.get("use_fp16") is True for state in layers)
    return carried


def _mapping_activation(modules: dict[str, Module]) -> dict[str, object]:
    layers = [module.state for path, module in modules.items() if path.startswith("mapping.fc")]
    return _agreed(layers, "activation")


def _agreed(layers: list[dict[object, object]], name: str) -> dict[str, object]:
    """Return the one value of the attribute, by its name; nothing where no layer has it."""
    values = [_plain(state[name]) for state in layers if name in state]
    if any(value != values[0] for value in values):
        raise pickle.UnpicklingError(f"its layers differ in {name}")
    return {name: values[0]} if values else {}


def _table(value: object, name: str) -> dict[object, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no dictionary")
    return value


def _plain(value: object) -> object:
    """Return a copy made of numbers, text, None, lists, tuples and dictionaries alone; a name as text."""
    return _Plain().of(value, DEEPEST_VALUE)


class _Plain:
    """Copies values, at most `MOST_VALUES` of them: a few shared lists can stand for any number."""

    def __init__(self) -> None:
        self.left = MOST_VALUES

    def of(self, value: object, depth: int) -> object:
        self.left -= 1
        if not depth or self.left < 0:
            raise pickle.UnpicklingError("its settings are no finite table")
        if isinstance(value, Name):
            return value.text
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            copied = [self.of(member, depth - 1) for member in value]
            return copied if isinstance(value, list) else tuple(copied)
        if isinstance(value, dict):
            return {key: self.of(member, depth - 1) for key, member in value.items()}
        raise pickle.UnpicklingError(f"its settings hold a {type(value).__name__}")

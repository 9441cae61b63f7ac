"""Reader of OpenVINO's intermediate representation: a graph in XML, its constants in a flat file beside it.

Nothing in either file is executed: the XML may declare no entities, and a constant is a copied slice
of bytes.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from pathlib import Path
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from ggl.base.errors import WeightsError

__all__ = ["Graph", "Layer", "read_ir"]

LARGEST_XML = 16 * 2**20
"""Bytes; the graph of a large network has about one."""
LARGEST_CONSTANTS = 4 * 2**30
"""Bytes."""
DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "f64": torch.float64,
    "i64": torch.int64,
    "i32": torch.int32,
}
MOST_AXES = 8
MOST_SHARED = 2
"""All constants' bytes, in sizes of their file: writers store equal constants once, and each is copied."""


@dataclass(frozen=True)
class Layer:
    """One operation of the graph: its kind ("MatMul") and the names of what feeds its ports, in order."""

    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The layers of a network by name, and the values of those whose kind is "Const"."""

    path: Path
    layers: dict[str, Layer]
    constants: dict[str, Tensor]

    def constant_of(self, name: str) -> Tensor:
        """Return the one constant that feeds the layer `name`.

        Raises:
            WeightsError: there is no such layer, or no or more than one constant feeds it.
        """
        if name not in self.layers:
            raise WeightsError(f"{self.path}: expected a layer {name!r}, found none; fetch the file again")
        found = [i for i in self.layers[name].inputs if i in self.constants]
        if len(found) != 1:
            raise WeightsError(f"{self.path}: expected one constant at layer {name!r}, found {len(found)}")
        return self.constants[found[0]]


def read_ir(xml: str | Path, constants: str | Path, kinds: Collection[str]) -> Graph:
    """Return the graph of an IR (version 10 or 11).

    Args:
        xml: the file that holds the layers and edges.
        constants: the file beside it (".bin") that holds the constants' values.
        kinds: the kinds of layers that the caller can interpret, besides Const, Parameter and Result.

    Raises:
        WeightsError: a file cannot be read or is damaged, a constant lies outside of its file, the
            constants together are much larger than it, or a layer is of another kind.
    """
    xml, constants = Path(xml), Path(constants)
    root = _parse(xml)
    elements = _elements(xml, root, {*kinds, "Const", "Parameter", "Result"})
    names = {key: _attribute(xml, element, "name") for key, element in elements.items()}
    if not names or len(set(names.values())) < len(names):
        raise WeightsError(f"{xml}: expected layers of different names, found {len(set(names.values()))}")
    inputs = _inputs(xml, root, names)
    layers = {names[key]: Layer(element.attrib["type"], inputs[key]) for key, element in elements.items()}
    content = _read(constants, LARGEST_CONSTANTS)
    values: dict[str, Tensor] = {}
    room = MOST_SHARED * len(content)
    for key, element in elements.items():
        if element.get("type") == "Const":
            values[names[key]] = value = _value(xml, constants, element, content)
            room -= value.nbytes
            if room < 0:
                raise WeightsError(
                    f"{xml}: expected constants of at most {MOST_SHARED} times the {len(content)} bytes of "
                    f"{constants.name}, found more; fetch both files again"
                )
    return Graph(xml, layers, values)


def _read(path: Path, largest: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > largest:
            raise WeightsError(f"{path}: expected at most {largest} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: expected a weights file, but it cannot be read ({error.strerror})"
        ) from error


def _parse(path: Path) -> ET.Element:
    """Return the root of an XML file without a document type, and so without entities.

    The text is decoded here, so that no declared encoding can hide a declaration from the check.
    """
    try:
        text = _read(path, LARGEST_XML).decode("utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise WeightsError(f"{path}: expected XML without a document type, found one; refused")
        root = ET.fromstring(text)  # noqa: S314 (entities are refused above)
    except (ET.ParseError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: expected whole XML, found a damaged file ({str(error)[:200]!r}); fetch it again"
        ) from error
    if root.tag != "net" or root.get("version") not in ("10", "11"):
        raise WeightsError(
            f"{path}: expected a <net> of version 10 or 11, found {root.tag[:40]!r} "
            f"{root.get('version', '')[:40]!r}; fetch it again"
        )
    return root


def _attribute(path: Path, element: ET.Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise WeightsError(f"{path}: expected an attribute {name!r} at <{element.tag}>, found none")
    return value


def _number(path: Path, text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise WeightsError(f"{path}: expected a whole number, found {text[:40]!r}")
    return int(text)


def _elements(path: Path, root: ET.Element, kinds: set[str]) -> dict[str, ET.Element]:
    """Return the layers by their ids."""
    elements: dict[str, ET.Element] = {}
    for element in root.iterfind("layers/layer"):
        kind = _attribute(path, element, "type")
        if kind not in kinds:
            known = ", ".join(sorted(kinds))
            raise WeightsError(f"{path}: expected layers of the kinds {known}, found {kind[:40]!r}")
        number = _attribute(path, element, "id")
        if elements.setdefault(number, element) is not element:
            raise WeightsError(f"{path}: expected each layer's id once, found {number[:40]!r} twice")
    return elements


def _inputs(path: Path, root: ET.Element, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return, by a layer's id, the names of the layers that feed its ports, in the ports' order."""
    ports: dict[str, dict[int, str]] = {key: {} for key in names}
    for edge in root.iterfind("edges/edge"):
        above, below = (_attribute(path, edge, end) for end in ("from-layer", "to-layer"))
        port = _number(path, _attribute(path, edge, "to-port"))
        if above not in names or below not in names or port in ports[below]:
            raise WeightsError(
                f"{path}: expected one edge from and to known layers a port, found {str(edge.attrib)[:200]}"
            )
        ports[below][port] = names[above]
    return {key: tuple(found[port] for port in sorted(found)) for key, found in ports.items()}


def _shape(path: Path, text: str) -> list[int]:
    """Return the lengths of "2,3"; their product, without zeros, is bounded as the file of constants is."""
    lengths = text.split(",", MOST_AXES) if text else []
    shape = [_number(path, length) for length in lengths[:MOST_AXES]]
    if len(lengths) > MOST_AXES or prod(length or 1 for length in shape) > LARGEST_CONSTANTS:
        raise WeightsError(
            f"{path}: expected a shape of at most {MOST_AXES} axes and {LARGEST_CONSTANTS} values, "
            f"found {text[:40]!r}"
        )
    return shape


def _value(xml: Path, path: Path, element: ET.Element, content: bytes) -> Tensor:
    """Return a constant's value, a copy of its bytes."""
    data = element.find("data")
    if data is None:
        raise WeightsError(
            f"{xml}: expected <data> in each constant, found none in {element.get('name', '')[:40]!r}"
        )
    kind = _attribute(xml, data, "element_type")
    if kind not in DTYPES:
        raise WeightsError(f"{xml}: expected constants of {', '.join(DTYPES)}, found {kind[:40]!r}")
    offset, size = (_number(xml, _attribute(xml, data, name)) for name in ("offset", "size"))
    text = _attribute(xml, data, "shape").replace(" ", "")
    shape = _shape(xml, text)
    wanted = prod(shape) * DTYPES[kind].itemsize
    if size != wanted:
        raise WeightsError(f"{xml}: expected {wanted} bytes for a constant of shape [{text}], found {size}")
    if offset + size > len(content):
        raise WeightsError(
            f"{path}: expected at least {offset + size} bytes, found {len(content)}; "
            "the file was cut short or altered: fetch it again"
        )
    if not size:
        return torch.empty(shape, dtype=DTYPES[kind])
    return torch.frombuffer(bytearray(content[offset : offset + size]), dtype=DTYPES[kind]).view(shape)

"""Where the published OpenVINO graphs of MobileStyleGAN hold each tensor of its networks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ggl.base.errors import WeightsError
from ggl.generators.mobilestylegan.network import MappingNetwork, SynthesisNetwork
from ggl.generators.mobilestylegan.openvino_ir import Graph, read_ir

__all__ = ["load_mapping", "load_synthesis"]

Network = TypeVar("Network", bound=nn.Module)

ARITHMETIC = ("Add", "MatMul", "Multiply", "PReLU", "Power", "ReduceMean")
CONVOLUTIONS = ("Convolution", "GroupConvolution", "GroupConvolutionBackpropData")
SHAPES = (
    "Broadcast",
    "Concat",
    "Gather",
    "Reshape",
    "ShapeOf",
    "Squeeze",
    "Tile",
    "Unsqueeze",
    "VariadicSplit",
)

MAPPING_STEP = 11
"""Layers are numbered in the order in which they run; each of the mapping's has this many."""
BLOCK_STEP = 103
"""How many layers a block of the synthesis has."""
CONVOLUTION_STEP = 34
"""How many layers lie between a block's two convolutions."""


def load_mapping(folder: Path) -> MappingNetwork:
    """Return the mapping network of the files in `folder`, float32, frozen.

    Raises:
        WeightsError: a file is missing or damaged, or its graph is another network's.
    """
    names = {}
    for i in range(8):
        names[f"layers.{i}.weight"] = f"MatMul_{8 + MAPPING_STEP * i}"
        names[f"layers.{i}.bias"] = f"Reshape_{14 + MAPPING_STEP * i}"
    return _filled(MappingNetwork, _graph(folder, "mnet"), names, {})


def load_synthesis(folder: Path) -> SynthesisNetwork:
    """Return the synthesis network of the files in `folder`, float32, frozen; errors as `load_mapping`."""
    names = {"first.constant": "Expand_9", "first.noise": "Add_41"}
    names |= _linear("first.style", 11) | _convolution("first.layer", 22, bias=42)
    names |= _linear("bands.style", 765) | _convolution("bands", 776, bias=777)
    scales = {"first.style": "Mul_20", "bands.style": "Mul_774"}
    for block in range(7):
        first = BLOCK_STEP * block
        names |= _linear(f"blocks.{block}.up_style", 53 + first)
        for layer in range(2):
            prefix, at = f"blocks.{block}.layers.{layer}", first + CONVOLUTION_STEP * layer
            names |= _linear(f"{prefix}.pointwise.style", 79 + at)
            scales[f"{prefix}.pointwise.style"] = f"Mul_{88 + at}"
            names[f"{prefix}.depthwise.weight"] = f"Conv_{90 + at}"
            names |= _convolution(f"{prefix}.pointwise", 91 + at, bias=111 + at)
            names[f"{prefix}.noise"] = f"Add_{110 + at}"
    return _filled(SynthesisNetwork, _graph(folder, "snet"), names, scales)


def _linear(name: str, number: int) -> dict[str, str]:
    return {f"{name}.weight": f"MatMul_{number}", f"{name}.bias": f"Add_{number + 1}"}


def _convolution(name: str, number: int, bias: int) -> dict[str, str]:
    return {f"{name}.weight": f"Conv_{number}", f"{name}.bias": f"Add_{bias}"}


def _graph(folder: Path, name: str) -> Graph:
    stem = folder / f"mobilestylegan_ffhq_{name}"
    return read_ir(stem.with_suffix(".xml"), stem.with_suffix(".bin"), (*ARITHMETIC, *CONVOLUTIONS, *SHAPES))


def _filled(
    build: Callable[[], Network], graph: Graph, names: Mapping[str, str], scales: Mapping[str, str]
) -> Network:
    """Return a network whose tensors are the graph's constants.

    Args:
        build: makes the network.
        graph: what holds the constants.
        names: the layer whose constant a tensor is, by the tensor's name.
        scales: the layer whose constant a linear layer's output is multiplied by, by the layer's name.
    """
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    tensors = {}
    for name, layer in names.items():
        value = graph.constant_of(layer)
        if value.numel() != wanted[name].numel() or value.dtype != torch.float32:
            raise WeightsError(
                f"{graph.path}: expected {wanted[name].numel()} float32 values at layer {layer!r}, "
                f"found {value.numel()} of {value.dtype}"
            )
        tensors[name] = value.reshape(wanted[name].shape)
    for name, layer in scales.items():
        scale = graph.constant_of(layer).reshape(())
        tensors |= {key: tensors[key] * scale for key in (f"{name}.weight", f"{name}.bias")}
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)

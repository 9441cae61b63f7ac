"""Official StyleGAN2-ADA `.pkl` files: tensors and settings are taken, the source code in them never runs.

The file is a pickle of {"G", "D", "G_ema", "training_set_kwargs", "augment_pipe"}. Each network stands
there as a call with one dictionary: the source text of its module, its class's name, and the attributes
of the `nn.Module` under "state".
"""

import io
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ggl.base.errors import WeightsError
from ggl.generators.formats import format_of
from ggl.generators.stylegan2.inert_pickle import read_pickle
from ggl.generators.stylegan2.official_network import MAKERS, Module, modules_of, settings_of, tensors_of

__all__ = ["OfficialGenerator", "read_official"]

DAMAGED = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, struct.error)
"""What reading raises on files cut short or with altered bytes."""

STYLEGAN3 = b"class SynthesisInput"
"""In the source text that StyleGAN3's files hold, and StyleGAN-XL's."""


@dataclass(frozen=True)
class OfficialGenerator:
    """What an inference network needs of an official generator.

    tensors: parameters and buffers by dotted name, "mapping.fc0.weight", in the file's types.
    settings: the arguments the generator was made with (z_dim, c_dim, w_dim, img_resolution,
        img_channels, mapping_kwargs, synthesis_kwargs) as plain values, and what its layers say of
        conv_clamp (number or None), num_fp16_res, activation and architecture ("skip", "orig", "resnet").
    """

    tensors: dict[str, Tensor]
    settings: dict[str, object]


def read_official(path: str | Path) -> OfficialGenerator:
    """Read the averaged generator, G_ema, of an official StyleGAN2-ADA file; nothing in it is executed.

    Raises:
        WeightsError: the file is missing, it is cut short, it has no G_ema, or it asks for anything
            but tensors and plain values (the message names it).
    """
    path = Path(path)
    content = _content(path)
    try:
        networks = read_pickle(io.BytesIO(content), MAKERS)
        return _generator_of(networks, len(content))
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, content, str(error))) from error
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path}: expected a StyleGAN2-ADA generator, found a damaged file ({reason}); fetch it again"
        ) from error


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: expected a StyleGAN2-ADA generator, but it cannot be read ({error.strerror})"
        ) from error
    if content[:1] != pickle.PROTO:
        raise WeightsError(f"{path}: expected a StyleGAN2-ADA pickle, found {_kind(content)}")
    return content


def _kind(content: bytes) -> str:
    if content[:2] == b"PK":
        return "a zip archive (torch.save); give the official .pkl file"
    return "another kind of file" if content else "an empty file"


def _refusal(path: Path, content: bytes, reason: str) -> str:
    if STYLEGAN3 in content:
        known = format_of(["synthesis.input.freqs"])
        return f"{path}: expected a StyleGAN2-ADA generator, found {known}"
    if reason.startswith("it asks for dnnlib.tflib"):
        return (
            f"{path}: expected a StyleGAN2-ADA generator in PyTorch's layout, found TensorFlow's; convert "
            "it with legacy.py of NVIDIA's stylegan2-ada-pytorch"
        )
    return f"{path}: expected a StyleGAN2-ADA generator, refused: {reason}"


def _generator_of(networks: object, size: int) -> OfficialGenerator:
    if not isinstance(networks, dict) or "G_ema" not in networks:
        raise pickle.UnpicklingError(f"it has no key G_ema; its keys: {_keys(networks)}")
    root = networks["G_ema"]
    if not isinstance(root, Module):
        raise pickle.UnpicklingError(f"its G_ema is no network, but of type {type(root).__name__}")
    modules = modules_of(root)
    return OfficialGenerator(tensors_of(modules, size), settings_of(modules))


def _keys(networks: object) -> str:
    names = list(networks)[:8] if isinstance(networks, dict) else []
    return ", ".join(ascii(name)[:64].strip("'") for name in names) or "none"

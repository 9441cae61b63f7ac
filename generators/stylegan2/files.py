"""The files a generator comes in: all are read as tensors and plain values, never executed."""

import json
from pathlib import Path

from torch import Tensor

from ggl.base.errors import InputError, WeightsError
from ggl.base.weights import load_tensors_and_metadata
from ggl.generators.stylegan2.official_pickle import read_official
from ggl.generators.stylegan2.rosinality import read_rosinality
from ggl.generators.stylegan2.tensors import Settings

__all__ = ["read_generator"]


def read_generator(path: str | Path) -> tuple[dict[str, Tensor], Settings]:
    """Return a generator's tensors, under official names, and its settings, by the file's suffix.

    `.pkl`: an official StyleGAN2-ADA (PyTorch) pickle. `.pt`, `.pth`: a checkpoint of
    rosinality/stylegan2-pytorch. `.safetensors`: official names, with the constructor's arguments as
    JSON under "settings" in the metadata, where they differ from the paper's.

    Raises:
        InputError: another suffix.
        WeightsError: the file is missing, damaged or altered, or is no such generator.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".pkl":
        official = read_official(path)
        return official.tensors, Settings.of(official.settings)
    if suffix in (".pt", ".pth"):
        return read_rosinality(path), Settings()
    if suffix == ".safetensors":
        tensors, metadata = load_tensors_and_metadata(path)
        return tensors, _settings(path, metadata.get("settings", "{}"))
    raise InputError(f"stylegan2: expected a .pkl, .pt, .pth or .safetensors file, found {str(path)!r}")


def _settings(path: str | Path, text: str) -> Settings:
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: expected JSON under 'settings', found {text[:40]!r}") from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: expected a JSON table under 'settings', found {text[:40]!r}")
    return Settings.of(settings)

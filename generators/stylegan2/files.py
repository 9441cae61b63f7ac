"""The files a generator comes in: all are read as tensors and plain values, never executed."""

import json
from pathlib import Path

from torch import Tensor

from ggl.base.errors import InputError, WeightsError
from ggl.base.registry import unknown_name
from ggl.base.weight_files import locate, weight_catalog
from ggl.base.weights import load_tensors_and_metadata
from ggl.generators.stylegan2.official_pickle import read_official
from ggl.generators.stylegan2.rosinality import read_rosinality
from ggl.generators.stylegan2.tensors import Settings, named

__all__ = ["find_file", "read_generator"]

ENTRIES = "stylegan2-"
"""What the names of the published generators begin with in the catalog of weights."""


def find_file(path: str) -> Path:
    """Return the file of that path; else of the published generator of that short name, "ffhq".

    Raises:
        UnknownNameError: there is neither such a file nor such a generator.
        WeightsError: the generator's file is not at hand, or was altered.
    """
    if Path(path).is_file() or Path(path).suffix:
        return Path(path)
    known = {name.removeprefix(ENTRIES) for name in weight_catalog.entries if name.startswith(ENTRIES)}
    if path not in known:
        raise unknown_name("StyleGAN2 file or published generator", path, sorted(known))
    (file,) = weight_catalog[f"{ENTRIES}{path}"].files
    return locate(f"{ENTRIES}{path}") / file.name


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
        with named(path):
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
    except (RecursionError, ValueError) as error:
        raise WeightsError(
            f"{path}: expected JSON under 'settings', found {text[:40]!r}; correct it"
        ) from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: expected a JSON table under 'settings', found {text[:40]!r}; correct it")
    with named(path):
        return Settings.of(settings)

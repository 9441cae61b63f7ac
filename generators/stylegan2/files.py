"""The files a generator comes in: all are read as tensors and plain values, never executed."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ggl.base.errors import InputError, WeightsError
from ggl.base.registry import unknown_name
from ggl.base.weight_files import locate, weight_catalog
from ggl.base.weights import load_tensors_and_metadata
from ggl.generators.formats import format_of
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
            _check_generator(official.tensors, official.settings)
            return official.tensors, Settings.of(official.settings)
    if suffix in (".pt", ".pth"):
        return read_rosinality(path), Settings()
    if suffix == ".safetensors":
        tensors, metadata = load_tensors_and_metadata(path)
        settings = _settings(path, metadata.get("settings", "{}"))
        with named(path):
            _check_generator(tensors, settings)
            return tensors, Settings.of(settings)
    raise InputError(f"stylegan2: expected a .pkl, .pt, .pth or .safetensors file, found {str(path)!r}")


def _check_generator(tensors: Mapping[str, Tensor], settings: Mapping[str, object]) -> None:
    """Refuse other formats by their names, and the mapping of a latent and a class without the class's part.

    Raises:
        WeightsError: it is another format's generator, or a class-conditional one without its embedding.
    """
    known = format_of(tensors)
    if known is not None and "synthesis.b4.const" not in tensors:
        raise WeightsError(f"expected a StyleGAN2 generator, found {known}")
    first = tensors.get("mapping.fc0.weight")
    if "mapping.embed.weight" in tensors or first is None or first.ndim != 2:
        return
    if settings.get("c_dim") or ("z_dim" not in settings and first.shape[1] == 2 * first.shape[0]):
        raise WeightsError(
            f"expected 'mapping.embed.weight', found none, but 'mapping.fc0.weight' of shape "
            f"{tuple(first.shape)}, which reads the latent and the embedding of a class; give the whole "
            "generator, or z_dim among its settings where it has no classes"
        )


def _settings(path: str | Path, text: str) -> dict[str, object]:
    try:
        settings = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise WeightsError(
            f"{path}: expected JSON under 'settings', found {text[:40]!r}; correct it"
        ) from error
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: expected a JSON table under 'settings', found {text[:40]!r}; correct it")
    return settings

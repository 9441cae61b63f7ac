"""`ggl audit --evidence`: what an audit read, did and found, packed for somebody who was not there."""

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ggl.attacks.checkpoints import fingerprint
from ggl.audits.evidence import Evidence
from ggl.audits.report import Report
from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.files import sha256, write_atomically
from ggl.base.registry import BROUGHT
from ggl.captures.reconstruction import Reconstruction
from ggl.commands.audit_inputs import Inputs
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.code_files import code_files
from ggl.commands.evidence_plan import InputFile, command_of, options_of, with_files
from ggl.measures.lpips import load_lpips

__all__ = ["EvidenceFile", "evidence_file", "evidence_of", "without_paths"]

PICTURE = re.compile(r"<img\b[^>]*>")
NO_PICTURE = '<span class="small">left out</span>'
NO_PICTURES = (
    '<body>\n<p class="note">A copy without its pictures, which show private images or come near them.</p>'
)
NO_TIMING = {"timing": None}
SOURCES = ("data", "test_data")
"""Of `ggl utility`'s settings, those that may be paths."""


@dataclass(frozen=True)
class EvidenceFile:
    """The file that an audit's evidence is written to.

    Attributes:
        path: the file.
        pictures: whether private images and reconstructions go into it.
    """

    path: Path
    pictures: bool = False

    def check(self) -> None:
        """Refuse a place that is taken or cannot be written to; nothing is created."""
        if self.path.exists():
            raise InputError(f"--evidence {self.path}: is there already; choose another name")
        there = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"--evidence {self.path}: expected a folder that can be written to, not {there}")

    def write(self, evidence: Evidence, console: Console) -> None:
        """Write the file, whole or not at all, and say its hash."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, evidence.pack())
        except OSError as error:
            raise InputError(f"--evidence {self.path}: cannot be written ({error.strerror})") from error
        console.print(f"evidence: {self.path}", soft_wrap=True, markup=False)
        console.print(f"its SHA-256, to be published: {sha256(self.path)}", soft_wrap=True)


def evidence_file(path: Path | None, pictures: bool) -> EvidenceFile | None:
    """Return where evidence goes, None where none is asked for.

    Raises:
        InputError: pictures are asked for, and no evidence.
    """
    if path is None and pictures:
        raise InputError("--evidence-with-images says what goes into --evidence: give that too")
    return None if path is None else EvidenceFile(path, pictures)


def evidence_of(
    plan: AuditPlan,
    files: Sequence[InputFile],
    inputs: Inputs,
    found: Report | Reconstruction,
    result: Mapping[str, Any],
    pictures: bool,
) -> Evidence:
    """Return the evidence of an audit whose report is saved in the plan's folder.

    Args:
        plan: what was asked for.
        files: that it names, as they were before it ran.
        inputs: what was loaded for it.
        found: what it found.
        result: the content of its `result.json`.
        pictures: whether private images and reconstructions go into it.
    """
    names = {file.text: file.name for file in files}
    portable = with_files(plan, names)
    images = {
        f"images/{name}-{k:03d}.png": (plan.out / "images" / f"{name}-{k:03d}.png").read_bytes()
        for name, of in found.image_sets().items()
        for k in range(len(of))
    }
    kept = without_paths({key: value for key, value in result.items() if key != "timing"}, names)
    page = found.page({**kept, **NO_TIMING})
    if not pictures:
        page = PICTURE.sub(NO_PICTURE, page).replace("<body>", NO_PICTURES, 1)
    run = {
        "command": command_of(portable),
        "options": options_of(portable),
        "files": {file.name: file.sha256 for file in files},
        "code": {name: None if file is None else sha256(file) for name, file in code_files(BROUGHT).items()},
        "loaded": _loaded(inputs),
        "machine": machine(plan.device),
        "pictures": {
            "kept": pictures,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in images.items()},
        },
    }
    return Evidence(run, kept, page, result["timing"], images if pictures else {})


def machine(device: str) -> dict[str, object]:
    """Return what figures depend on beside the versions that a result has."""
    here = find_device(device)
    return {
        "device": here.type if here.type == "cpu" else torch.cuda.get_device_name(here),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,  # in every process, whatever the machine has
        "lpips": "none" if load_lpips() is None else "at hand",
        **{package: version(package) for package in ("scipy", "pillow")},
    }


def _processor() -> str:
    """Return the processor's name, where the system says it, else its architecture."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _loaded(inputs: Inputs) -> dict[str, str | None]:
    """Return the hashes of what was made of the inputs: names, shapes and numbers."""
    images = {} if inputs.images is None else {"images": inputs.images}
    labels = {} if inputs.labels is None else {"labels": inputs.labels}
    return {
        "prior": _tensors(inputs.prior.state_dict()),
        "victim": _tensors(inputs.victim.state_dict()),
        "data": _tensors({"images": inputs.pool.images, "labels": inputs.pool.labels}),
        "private": _tensors({**images, **labels}) if images or labels else None,
        "update": None if inputs.shared is None else _tensors(inputs.shared),
    }


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    shapes = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    return fingerprint(shapes, [tensors[name] for name in sorted(tensors)])


def without_paths(result: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a result in whose settings files stand by their names alone, those of its trainings too.

    Args:
        result: the content of `result.json`.
        names: of the audit's inputs, by the texts that they were given by.
    """
    found = {**result, "settings": _renamed(result["settings"], names)}
    if result.get("utility"):
        settings = result["utility"]["settings"]
        trained = {key: re.sub("[^:]*/", "", str(settings[key])) for key in SOURCES if settings.get(key)}
        found["utility"] = {**result["utility"], "settings": {**settings, **trained}}
    return found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(inner, names) for inner in value]
    if isinstance(value, str):
        value = names.get(value, value)
        for text in sorted((text for text in names if os.sep in text), key=len, reverse=True):
            value = value.replace(str(Path(text).expanduser()), names[text]).replace(text, names[text])
    return value

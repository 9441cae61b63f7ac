"""What `ggl doctor` prints: what is here, what is missing, and the line that brings it."""

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

import ggl.generators.published
import ggl.measures.published  # noqa: F401  # both put their entries into the catalog
from ggl.base.distribution import NAME, install_command
from ggl.base.downloads import OFFLINE, is_offline
from ggl.base.processes import processors
from ggl.base.versions import PACKAGES, versions
from ggl.base.weight_files import cache_folder, weight_catalog

__all__ = ["diagnose"]

WIDTH = 12
"""Of the word that a line begins with; it stands once before lines of one kind."""

OF_DEVELOPERS = "dev"
"""An extra that users do without."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def diagnose() -> None:
    """Print versions, devices, memory, disk, weights at hand, and optional packages, a line each."""
    last = ""
    for word, text in (*_versions(), *_machine(), *_places(), *_weights(), *_extras()):
        print(f"{'' if word == last else word:{WIDTH}}{text}")
        last = word


def _versions() -> list[tuple[str, str]]:
    known = versions()
    system = f"{platform.system()} {platform.machine()}"
    packages = ", ".join(f"{name} {known[name]}" for name in PACKAGES)
    return [("ggl", f"{known['ggl']}, Python {known['python']}, {system}"), ("packages", packages)]


def _machine() -> list[tuple[str, str]]:
    count = processors()
    threads = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    lines = [
        ("device", device_line()),
        ("processors", f"{count}: audits search in so many processes of one thread, unless --workers says"),
    ]
    if threads:
        lines.append(("threads", f"{', '.join(threads)} is set, and bounds what one process may use"))
    memory = _memory()
    return lines if memory is None else [*lines, ("memory", memory)]


def device_line() -> str:
    """Return which devices torch has, or why it has no GPU."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"auto takes the first GPU of {len(names)}: {', '.join(names)}"
    if torch.version.cuda:
        return f"the CPU: torch is built for CUDA {torch.version.cuda}, but sees no GPU"
    return "the CPU: torch is built without CUDA; a GPU needs another build (pytorch.org)"


def _memory() -> str | None:
    """Return how much memory there is, where the system says."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return None


def _places() -> list[tuple[str, str]]:
    cache = cache_folder()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    used = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) if cache.exists() else 0
    lines = [
        ("cache", f"{cache}: {used / 1e6:.0f} MB in use, {_free(there)} free"),
        ("here", f"{Path.cwd()}: {_free(Path.cwd())} free"),
    ]
    if is_offline():
        lines.append(("network", f"{OFFLINE} forbids every download"))
    return lines


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB"


def _weights() -> list[tuple[str, str]]:
    return [
        ("weights", f"{name}: {'here' if entry.is_here else f'not here: ggl weights fetch {name}'}")
        for name, entry in sorted(weight_catalog.entries.items())
    ]


def _extras() -> list[tuple[str, str]]:
    """Return every optional extra with what it lacks, and the line that installs that."""
    packages: dict[str, list[str]] = {}
    for requirement in requires(NAME) or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra and package and extra[1] != OF_DEVELOPERS:
            packages.setdefault(extra[1], []).append(package[0])
    lines = []
    for name, names in sorted(packages.items()):
        missing = [package for package in names if not _is_installed(package)]
        text = "here" if not missing else f"lacks {', '.join(missing)}: {install_command(*missing)}"
        lines.append(("extra", f"{name}: {text}"))
    return lines


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True

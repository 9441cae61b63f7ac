"""Which files the user's own code lies in: what `package.module:name` brings."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from ggl.attacks.pixel_attacks import CONTRASTS
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.names import KINDS

__all__ = ["code_files", "code_modules"]


def code_files(brought: Iterable[str]) -> dict[str, Path | None]:
    """Return the file of every module of "package.module:name", by the module's name; None for no file.

    Nothing is imported but the packages that a module lies in.
    """
    names = sorted({path.partition(":")[0] for path in brought})
    return {name: _file(name) for name in names}


def code_modules(plan: AuditPlan) -> list[str]:
    """Return the modules that a plan asks to be imported and that no name of ours stands for."""
    asked = {
        "victims": [plan.victim],
        "priors": [plan.prior],
        "losses": [plan.loss],
        "strategies": [text for text in plan.strategies if text not in (*CONTRASTS, "auto")],
        "defenses": [part.strip() for text in plan.defenses for part in text.split("+")],
    }
    found = {
        text.partition(":")[0]
        for kind, texts in asked.items()
        for text in texts
        if text.partition(":")[0] not in KINDS[kind]
    }
    return sorted(found)


def _file(name: str) -> Path | None:
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if module is None:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None else spec.origin
    return None if origin is None or not Path(origin).is_file() else Path(origin)

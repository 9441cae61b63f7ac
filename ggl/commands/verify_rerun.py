"""An audit run again from its evidence, with one's own copies of what it read."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ggl.audits.evidence import flatten
from ggl.audits.reruns import beyond_intervals, unequal
from ggl.base.errors import InputError
from ggl.base.files import sha256
from ggl.base.registry import unknown_name
from ggl.commands.audit import audited
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.code_files import code_files, code_modules
from ggl.commands.evidence import evidence_of
from ggl.commands.evidence_plan import (
    InputFile,
    check_names_alone,
    digest_of,
    plain_name,
    plan_of,
    with_files,
)

__all__ = ["rerun"]

Json = Mapping[str, Any]

NAMED = 20
"""Differences that are named one by one."""

NOT_COMPARED = ("backend", "device")
"""Settings that say how a machine computes."""


def rerun(run: Json, result: Json, inputs: Sequence[str], device: str | None, console: Console) -> list[str]:
    """Run an audit again in a temporary folder; return a line for everything that differs.

    Nothing is run but ggl's own audit with the options of the evidence; code of the user's own is imported
    only where its file is given by name and is the evidence's.

    Args:
        run: what `run.json` of the evidence holds.
        result: what its `result.json` holds.
        inputs: "NAME=PATH" of inputs that are not in this folder by their names.
        device: to run on, by default the evidence's.
        console: where progress is shown.

    Raises:
        InputError: an input that is not there or was not named, or options that are no audit's.
    """
    plan = plan_of(run["options"], Path())
    check_names_alone(plan)
    files, code, lines = _found_inputs(run, plan, _given(run, inputs))
    if lines:
        return lines
    with tempfile.TemporaryDirectory() as folder, _importable(code):
        places = {name: _linked(name, path, Path(folder)) for name, path in files.items()}
        plan = replace(with_files(plan, places), device=device or plan.device, out=Path(folder) / "run")
        read = [InputFile(name, place, run["files"][name]) for name, place in places.items()]
        found, loaded = audited(plan, console)
        again = evidence_of(plan, read, loaded, found, found.save(plan.out), False)
    return _compared(run, result, again.run, again.result, console)


def _linked(name: str, path: Path, folder: Path) -> str:
    """Return where a file is found by the name that it had, which settings and notes repeat.

    A list of images stays where it is, since its paths are relative to its folder.
    """
    if path.suffix.lower() == ".csv":
        return str(path.absolute())
    place = Path(tempfile.mkdtemp(dir=folder)) / plain_name(name)
    place.symlink_to(path.resolve())
    return str(place)


def _given(run: Json, inputs: Sequence[str]) -> dict[str, Path]:
    """Return the paths that were given by name."""
    names, given = [*run["files"], *run["code"]], {}
    for text in inputs:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise InputError(f"--input {text}: expected NAME=PATH")
        if name not in names:
            raise InputError(f"--input: {unknown_name('input', name, names)}")
        given[name] = Path(path).expanduser()
    return given


def _found_inputs(
    run: Json, plan: AuditPlan, given: Mapping[str, Path]
) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """Return where the inputs and the code are, and a line for each that is not the evidence's."""
    files, code, lines = {}, {}, []
    for name, expected in run["files"].items():
        if Path(name).name != name:
            raise InputError(f"expected an input by its name alone, found {name!r}")
        files[name] = path = given.get(name, Path(name))
        if not path.exists():
            raise InputError(f"{path}: is not there; the audit read it, give --input {name}=PATH")
        if expected is not None and (found := digest_of(path)) != expected:
            lines.append(f"{name}: SHA-256 {expected} in the evidence, {found} here")
    for name in code_modules(plan):
        if name not in given:
            raise InputError(
                f"the audit ran code of its own, the module {name!r}, which is not run unasked: read it, and "
                f"give --input {name}=FILE.py"
            )
        code[name] = path = given[name]
        if not path.is_file():
            raise InputError(f"--input {name}={path}: expected a file of Python code, found none")
        expected = run["code"].get(name)
        if (found := sha256(path)) != expected:
            lines.append(f"module {name}: SHA-256 {expected} in the evidence, {found} here")
    return files, code, lines


@contextmanager
def _importable(code: Mapping[str, Path]) -> Iterator[None]:
    """Have modules imported from these files."""
    before = [*sys.path]
    for name, path in code.items():
        depth = name.count(".") + (path.name == "__init__.py")
        sys.path.insert(0, str(path.resolve().parents[depth]))
        found = code_files([name])[name]
        if found is None or not found.samefile(path):
            raise InputError(
                f"--input {name}={path}: expected the file that {name!r} is imported from, {found}"
            )
    try:
        yield
    finally:
        sys.path[:] = before


def _compared(run: Json, result: Json, run_here: Json, result_here: Json, console: Console) -> list[str]:
    """Return what differs: every value on a machine of the same kind, else figures beyond their intervals."""
    others = [*unequal(result["versions"], result_here["versions"])]
    others += [*unequal(run["machine"], run_here["machine"])]
    settings = [
        {key: value for key, value in of["settings"].items() if key not in NOT_COMPARED}
        for of in (result, result_here)
    ]
    loaded = [f"loaded {line}" for line in unequal(run["loaded"], run_here["loaded"])]
    if not others and run["machine"].get("device") == "cpu":
        pictures = unequal(run["pictures"].get("sha256"), run_here["pictures"]["sha256"])
        lines = [*unequal(result, result_here), *loaded, *pictures]
        console.print(f"run again on the like: {len([*flatten(result)])} values compared, to the last digit")
    else:
        lines = [*(f"settings.{line}" for line in unequal(*settings)), *beyond_intervals(result, result_here)]
        for line in others + loaded:
            console.print(f"other here: {line}", markup=False)
        console.print("run again on another: means compared with each other's intervals, and verdicts")
    return lines if len(lines) <= NAMED else [*lines[:NAMED], f"and {len(lines) - NAMED} values more"]

"""`ggl verify`: whether an evidence file is as it was written, and its figures agree with each other."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from ggl.audits.evidence import RESULT, RUN, content_of, differences, read_evidence
from ggl.audits.recomputed import contradictions
from ggl.base.errors import InputError, cause
from ggl.base.files import sha256
from ggl.base.versions import versions
from ggl.captures.recomputed import contradictions_of_matches
from ggl.commands.code_files import code_modules
from ggl.commands.console import LOG_WIDTH
from ggl.commands.evidence_plan import command_of, plan_of
from ggl.commands.verify_rerun import rerun
from ggl.defenses import load_defense

__all__ = ["verify"]

SAME = (
    *("victim", "victim_mode", "data", "split", "fit", "truth", "victim_output", "budget", "seed"),
    *("distance", "precision", "round", "rounds"),
)
"""Options that stand in a result's settings as they were asked for."""

CLIENTS = ("images", "batch_size")
"""The same of simulated clients."""

LAID_OUT = (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError)
"""What reading figures raises where they are not laid out as they are written."""

UNSIGNED = """\
whoever rewrites everything in agreement is not found out by this: compare the SHA-256 with one that was
published (--sha256), or run the audit again (--rerun)"""


def verify(
    path: Path, *, published: str | None, again: bool, inputs: Sequence[str], device: str | None
) -> bool:
    """Check an evidence file, print what was found, and say whether it holds.

    Args:
        path: the file.
        published: SHA-256 that it must have.
        again: whether the audit is run again and compared.
        inputs: "NAME=PATH" of what it reads, where that is not in this folder by its name.
        device: that it is run on, by default the evidence's.

    Raises:
        InputError: no evidence file, or an input that is needed and not there.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False, soft_wrap=True)
    if published is not None and not re.fullmatch("[0-9a-f]{64}", published.lower()):
        raise InputError(f"--sha256: expected 64 hexadecimal digits, found {published!r}")
    if (inputs or device) and not again:
        raise InputError("--input and --device say how --rerun is done: give that too")
    members, digest = read_evidence(path), sha256(path)
    found = differences(path, members)
    if published is not None and published.lower() != digest:
        found.insert(0, f"the file: its SHA-256 is {digest}, not the published")
    if not found:
        found += _disagreements(members)
    if not found:
        run, result = content_of(members, RUN), content_of(members, RESULT)
        console.print(f"{path.name}: {len(members)} members as they were written; figures and settings agree")
        console.print(f"SHA-256 {digest}{'' if published is None else ', as published'}")
        console.print(f"made by: {run['command']}", markup=False)
        if again:
            found += rerun(run, result, inputs, device, console)
        elif published is None:
            console.print(UNSIGNED)
    for line in found:
        console.print(f"differs: {line}", markup=False)
    return not found


def _disagreements(members: Mapping[str, bytes]) -> list[str]:
    """Return where settings, command and figures contradict each other."""
    try:
        run, result = content_of(members, RUN), content_of(members, RESULT)
        here = {**versions(), "scipy": version("scipy")}
        there = {**result["versions"], **run["machine"]}
        same = all(there[name] == here[name] for name in ("numpy", "scipy"))
        check = contradictions_of_matches if "control_gap" in result else contradictions
        return [
            *(f"{RUN} and {RESULT}: {line}" for line in _unlike_settings(run, result)),
            *(f"{RESULT}: {line}" for line in check(result, same_versions=same)),
        ]
    except LAID_OUT as error:
        return [f"{RUN} or {RESULT}: not laid out as ggl writes them ({cause(error)})"]


def _unlike_settings(run: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the command, its options and the settings of the result differ."""
    options, settings = run["options"], result["settings"]
    for name in ("files", "code", "loaded", "machine", "pictures"):
        if not isinstance(run[name], dict):
            raise TypeError(f"{name} is no object")
    plan = plan_of(options, Path())
    if command_of(plan) != run["command"]:
        yield "the command is not that of the options"
    for key in (*SAME, *(() if plan.captured else CLIENTS)):
        if key in settings and settings[key] != options[key]:
            yield f"{key} is {options[key]!r} as asked, {settings[key]!r} in the settings"
    for key in ("victim_weights", "update", "update_difference"):
        said = re.findall("SHA-256 ([0-9a-f]{64})", str(settings[key]))
        yield from (
            f"{key}: SHA-256 {one} is of no input" for one in said if one not in run["files"].values()
        )
    if not code_modules(plan):
        asked = list(dict.fromkeys(load_defense(defense).name for defense in plan.defenses))
        cells = result.get("results", [])
        audited = list(dict.fromkeys(cell["defense"] for cell in cells)) or [settings["defense"]]
        if asked != audited:
            yield f"defenses are {', '.join(asked)} as asked, {', '.join(audited)} in the figures"

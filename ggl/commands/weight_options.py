"""Files of weights as they are typed: FILE, or FILE,key=ENTRY."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ggl.base.errors import InputError
from ggl.base.files import sha256
from ggl.base.options import read_options
from ggl.captures.update import Captured, captured_difference, captured_update

__all__ = ["WeightsArgument", "identity_of", "typed_update", "weights_argument"]


@dataclass(frozen=True)
class WeightsArgument:
    """A file of weights that was typed.

    Attributes:
        path: the file.
        key: its entry, or the beginning of its tensors' names; None where nobody says.
        sign: of a difference of weights: 1 for after - before, -1 for before - after.
    """

    path: Path
    key: str | None = None
    sign: int = 1


def weights_argument(option: str, text: str | Path, *, signed: bool = False) -> WeightsArgument:
    """Return the file and the options in "FILE,key=ENTRY", with `signed` in "FILE,key=ENTRY,sign=-1" too.

    A text that is a file's whole name, commas and all, is that file.

    Raises:
        UnknownNameError: an option that is not known.
        InputError: an option without a value or given twice, or a sign that is neither 1 nor -1.
    """
    name, comma, rest = str(text).partition(",")
    if not comma or Path(text).exists():
        return WeightsArgument(Path(text))
    kinds = {"key": str, "sign": str} if signed else {"key": str}
    options = read_options(f"{option} {text}", rest, kinds)
    sign = options.get("sign", "1")
    if sign not in ("1", "-1"):
        raise InputError(f"{option} {text}: expected sign=1, after - before, or sign=-1; found sign={sign}")
    return WeightsArgument(Path(name), options.get("key"), -1 if sign == "-1" else 1)


def identity_of(option: str, text: str | Path | None, *, signed: bool = False) -> str | None:
    """Return which file was given, for the settings of a result: name, hash, options; None for none."""
    if text is None:
        return None
    file = weights_argument(option, text, signed=signed)
    options = (f", key {file.key}" if file.key else "") + (", before - after" if file.sign < 0 else "")
    return f"{file.path.name}, SHA-256 {sha256(file.path)}{options}"


def typed_update(
    victim: nn.Module,
    update: tuple[str | Path, str | Path] | None,
    difference: str | Path | None,
    learning_rate: float,
) -> Captured:
    """Read the update in two files of weights, or in one of differences; errors as of the two readers."""
    if update is None:
        file = weights_argument("--update-difference", difference or "", signed=True)
        return captured_difference(
            victim, file.path, learning_rate=learning_rate, key=file.key, sign=file.sign
        )
    before, after = (weights_argument("--update", text) for text in update)
    keys = {"before_key": before.key, "after_key": after.key}
    return captured_update(victim, before.path, after.path, learning_rate=learning_rate, **keys)

"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ggl.commands.names import completion

__all__ = [
    "Device",
    "Evidence",
    "EvidenceWithImages",
    "FailOn",
    "FitToSize",
    "ImageSize",
    "LossName",
    "NumClasses",
    "Out",
    "PairedUpdates",
    "PriorName",
    "Resume",
    "Seed",
    "Victim",
    "VictimOutput",
    "VictimWeights",
    "Workers",
]


class PairedUpdates(TyperCommand):
    """The command whose --update takes two files each time that it is given; they come as one list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        update = next(option for option in self.params if option.name == "update")
        update.nargs = 2
        update.callback = lambda *given: [file for pair in given[-1] or () for file in pair]


Seed = Annotated[int, typer.Option(help="of every random draw")]
Out = Annotated[Path, typer.Option(help="folder for result.json, report.html, card.png and the images")]
Resume = Annotated[bool, typer.Option("--resume", help="continue a run that was killed in --out")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: a GPU where there is one")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="processes that search, of one thread each; default one a processor, or one on a GPU", min=1
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        help="leaks, identifies or score:X, with commas or repeated: exit code 3 where a defense meets it or "
        "nothing can be said"
    ),
]
Evidence = Annotated[
    Path | None, typer.Option(help="write FILE.zip for others to check, `ggl verify`; without pictures")
]
EvidenceWithImages = Annotated[
    bool, typer.Option("--evidence-with-images", help="put private images and reconstructions into it")
]
Victim = Annotated[
    str,
    typer.Option(
        help="a name of `ggl list victims`, or package.module:function", autocompletion=completion("victims")
    ),
]
VictimOutput = Annotated[
    str | None,
    typer.Option(help="which of a victim's several outputs its logits are: a name or a number"),
]
LossName = Annotated[
    str,
    typer.Option(
        help="of the clients: a name of `ggl list losses`, or package.module:function",
        autocompletion=completion("losses"),
    ),
]
VictimWeights = Annotated[
    str | None,
    typer.Option(help="FILE or FILE,key=ENTRY: .safetensors, .npz, torch state dict or checkpoint"),
]
NumClasses = Annotated[
    int | None,
    typer.Option(help="of the victim; default read off its weights, else as the prior or the data", min=1),
]
FitToSize = Annotated[str | None, typer.Option(help="pad, resize or center-crop to --image-size")]
ImageSize = Annotated[int | None, typer.Option(help="pixels that the victim takes", min=8)]
PriorName = Annotated[
    str,
    typer.Argument(
        help="a name of `ggl list priors`, package.module:MyPrior, or package.module:Network,weights=FILE",
        autocompletion=completion("priors"),
    ),
]

"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from ggl.commands.names import completion

__all__ = ["Device", "Out", "PriorName", "Resume", "Seed", "Victim", "VictimWeights"]

Seed = Annotated[int, typer.Option(help="of every random draw")]
Out = Annotated[Path, typer.Option(help="folder for result.json, report.html and the images")]
Resume = Annotated[bool, typer.Option("--resume", help="continue a run that was killed in --out")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: a GPU where there is one")]
Victim = Annotated[
    str,
    typer.Option(
        help="a name of `ggl list victims`, or package.module:function", autocompletion=completion("victims")
    ),
]
VictimWeights = Annotated[Path | None, typer.Option(help="safetensors or torch state dict")]
PriorName = Annotated[
    str,
    typer.Argument(
        help="a name of `ggl list priors`, package.module:MyPrior, or package.module:Network,weights=FILE",
        autocompletion=completion("priors"),
    ),
]

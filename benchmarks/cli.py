"""What may be typed of sweeps, their pages and reproductions: `ggl bench`, `ggl report`, `ggl reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from ggl.base.errors import InputError
from ggl.commands.options import Device, Resume

__all__ = ["bench_app", "report", "reproduce"]

bench_app = typer.Typer(
    help="Sweeps of strategies, defenses, priors and victims.", no_args_is_help=True, rich_markup_mode=None
)

SpecFile = Annotated[Path, typer.Argument(help="a sweep as TOML; see benchmarks/specs")]
StoreFolder = Annotated[Path, typer.Argument(help="folder of a store, as `ggl bench run` makes it")]
EngineName = Annotated[str, typer.Option(help="local: processes of this machine; ray: a cluster")]
Workers = Annotated[
    int | None,
    typer.Option(help="packs at once, one thread each; default one a processor, or one on a GPU", min=1),
]
TrackerName = Annotated[str, typer.Option(help="tensorboard, wandb:PROJECT, mlflow, none, or your own")]


@bench_app.command()
def plan(
    spec: SpecFile,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Print a sweep's cells, evaluations, and time by a short calibration; nothing is run."""
    from ggl.benchmarks import commands

    commands.show_plan(spec, workers=workers, device=device)


@bench_app.command("run")
def run_sweep(
    spec: SpecFile,
    store: Annotated[Path | None, typer.Option(help="folder; default runs/bench/NAME")] = None,
    engine: EngineName = "local",
    workers: Workers = None,
    device: Device = "auto",
    tracker: TrackerName = "tensorboard",
) -> None:
    """Run what the store lacks of a sweep. A failed cell never stops it; the exit code is then 1."""
    from ggl.benchmarks import commands

    code = commands.start(spec, store, engine=engine, workers=workers, device=device, tracker=tracker)
    raise typer.Exit(code)


@bench_app.command("resume")
def resume_sweep(
    store: StoreFolder,
    engine: EngineName = "local",
    workers: Workers = None,
    device: Device = "auto",
    tracker: TrackerName = "tensorboard",
) -> None:
    """Go on with a sweep that was stopped or killed."""
    from ggl.benchmarks import commands

    raise typer.Exit(commands.resume(store, engine=engine, workers=workers, device=device, tracker=tracker))


@bench_app.command("retry-failed")
def retry_failed(
    store: StoreFolder,
    engine: EngineName = "local",
    workers: Workers = None,
    device: Device = "auto",
    tracker: TrackerName = "tensorboard",
) -> None:
    """Run a sweep's failed cells again, and what is missing."""
    from ggl.benchmarks import commands

    raise typer.Exit(
        commands.retry_failed(store, engine=engine, workers=workers, device=device, tracker=tracker)
    )


@bench_app.command("status")
def sweep_status(store: StoreFolder) -> None:
    """Print how far a sweep is, who works on it, and why cells failed or were skipped."""
    from ggl.benchmarks import commands

    commands.status(store)


@bench_app.command("export")
def export_cells(
    store: StoreFolder,
    to: Annotated[Path, typer.Option(help="FILE.csv or FILE.parquet")],
) -> None:
    """Write a store's cells, one row each, as CSV or Parquet."""
    from ggl.benchmarks import commands

    commands.export(store, to)


@bench_app.command()
def leaderboard(
    files: Annotated[Path, typer.Option(help="folder of the data sets that it names")],
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/leaderboard"),
    images: Annotated[int | None, typer.Option(help="fewer, to try it: claims nothing", min=1)] = None,
    budget: Annotated[
        int | None, typer.Option(help="of every search, to try it: claims nothing", min=1)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="of every training, to try it: claims nothing", min=1)
    ] = None,
    page: Annotated[Path | None, typer.Option(help="a further place for the page")] = None,
    results: Annotated[Path | None, typer.Option(help="a further folder for the tables as CSV")] = None,
    front: Annotated[
        Path | None, typer.Option(help="page that gets the first rows, between <!-- leaderboard --> lines")
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """Make the leaderboard: defenses that keep accuracy, by what the strongest attacker finds."""
    from ggl.benchmarks import commands
    from ggl.benchmarks.leaderboard.run import BoardRun

    asked = BoardRun(
        files,
        out,
        resume=resume,
        images=images,
        budget=budget,
        rounds=rounds,
        device=device,
        page=page,
        results=results,
        front=front,
    )
    commands.leaderboard(asked, workers)


def report(
    store: StoreFolder,
    out: Annotated[
        Path | None, typer.Option(help="folder of report.html and tables; default the store's")
    ] = None,
    utility: Annotated[
        Path | None, typer.Option(help="utility.json of `ggl utility`, to set leaks beside costs")
    ] = None,
) -> None:
    """Make one page of a sweep, and its tables as CSV."""
    from ggl.benchmarks import commands

    commands.report(store, out, utility)


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="of a reproduction: ggl, precode, ppp, dynamic-dp, i2f")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="all of them, one after the other")] = False,
    scale: Annotated[
        str, typer.Option(help="small: on two cores; paper: the paper's own, on a GPU")
    ] = "small",
    out: Annotated[
        Path | None, typer.Option(help="folder, with --all of one each; default runs/reproduce/NAME-SCALE")
    ] = None,
    files: Annotated[
        Path | None, typer.Option(help="folder of what has to be brought; what is missing is named")
    ] = None,
    images: Annotated[int | None, typer.Option(help="fewer, to try it: claims nothing", min=1)] = None,
    budget: Annotated[
        int | None, typer.Option(help="of every search, to try it: claims nothing", min=1)
    ] = None,
    ceiling_budget: Annotated[
        int | None, typer.Option(help="of every inversion, to try it: claims nothing", min=1)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="of every training, to try it: claims nothing", min=1)
    ] = None,
    page: Annotated[Path | None, typer.Option(help="a further place for the page")] = None,
    results: Annotated[
        Path | None, typer.Option(help="a further folder for cells and measurements as CSV")
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """Run a paper's reproduction and judge its claims: reported, ours, interval, verdict."""
    from ggl.benchmarks import commands
    from ggl.benchmarks.reproduce.plan import Overrides
    from ggl.benchmarks.reproduce.run import ReproductionRun

    if every == (name is not None):
        raise InputError("expected the name of a reproduction, or --all and no name; `ggl reproduce --help`")
    if every and (page is not None or results is not None):
        raise InputError("--all: expected no --page and no --results, which are of one reproduction")
    run = ReproductionRun(
        name or "",
        scale,
        out or Path("runs/reproduce") / (f"{name}-{scale}" if name else ""),
        resume=resume,
        files=files,
        less=Overrides(images, budget, ceiling_budget, rounds),
        device=device,
        page=page,
        results=results,
    )
    commands.reproduce_papers(run, workers)

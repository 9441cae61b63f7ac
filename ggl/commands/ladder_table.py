"""A ladder as the terminal shows it."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from ggl.commands.console import interval_text, summary_table

__all__ = ["print_ladder"]


def print_ladder(result: Any, title: str, console: Console) -> None:
    """Print a ladder's table, one row a rung and one column a defense, and where the first leak shows."""
    ladder = result["ladder"]
    defenses = [first["defense"] for first in ladder["first_leak"]]
    rows = [
        [f"{rung['rung']} {rung['name']}", rung["kind"], *_under(rung, defenses)] for rung in ladder["rungs"]
    ]
    console.print(summary_table(title, ("rung", "kind", *defenses), rows))
    for rung in ladder["rungs"]:
        adds = f", adds to {rung['adds_to']}" if rung["adds_to"] else ""
        console.print(f"{rung['rung']} {rung['name']}{adds}: {rung['adds']}", markup=False)
    for first in ladder["first_leak"]:
        console.print(first["said"], markup=False)
    console.print(ladder["correction"], markup=False)


def _under(rung: Any, defenses: list[str]) -> Iterator[str]:
    """Yield what a rung comes to under each defense."""
    found = {under["defense"]: under for under in rung["under"]}
    for defense in defenses:
        if rung["control"] is not None:
            yield f"score 0, {rung['control']['psnr']['mean']:.1f} dB"
        elif (under := found.get(defense)) is None:
            yield "not its attack"
        elif under["cell"] is not None:
            yield f"{under['verdict']}, {under['psnr']['mean']:.1f} dB\n{interval_text(under['corrected'])}"
        else:
            yield "cannot be tried" if under["reason"] is not None else f"as rung {under['same_as']}"

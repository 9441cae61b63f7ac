"""What `ggl` alone says: what it does, and what one can do next."""

from typing import Any

from typer.core import TyperGroup

__all__ = ["WELCOME", "Welcoming"]

WELCOME = """\
ggl measures how much of a private image a shared federated-learning gradient gives away, against controls.

I want to ...
  see it work, in three minutes             ggl demo
  audit my own victim, images and defense   ggl audit --out runs/mine --data FOLDER --defense prune:0.9
  know first what that would take           ggl audit --out runs/mine ... --dry-run
  audit an update that I captured           ggl audit --out runs/mine --update BEFORE AFTER --lr 0.1
  compare many optimizers and defenses      ggl bench plan SPEC.toml, then ggl bench run SPEC.toml
  know what is installed, what is missing   ggl doctor

All commands: ggl --help. Options of one: ggl audit --help. Names: ggl list defenses, victims, priors, ..."""
"""The screen; it fits into 110 columns."""


class Welcoming(TyperGroup):
    """The command line that says, where nothing is typed behind its name, what one can do next."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the screen where there is nothing to parse, which is no error."""
        if not args and not ctx.resilient_parsing:
            print(WELCOME)
            ctx.exit(0)
        return super().parse_args(ctx, args)

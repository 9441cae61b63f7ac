"""Every command of the README and the pages is one that `ggl` takes, with the options that it has."""

import re
import shlex
from pathlib import Path

import click
import pytest
from typer.main import get_command

from ggl.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = {"shown", "reproductions"}
SHELL = {"", "bash", "sh"}


def commands(text: str) -> list[str]:
    """Return the lines of code blocks that begin with `ggl`, their continuations joined."""
    blocks = re.findall(r"^```(\w*).*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    joined = "\n".join(code for language, code in blocks if language in SHELL).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if re.match(r"\s*(\.venv/bin/)?ggl ", line)]


FOUND = sorted(
    {line for page in PAGES if not MADE & {*page.parts} for line in commands(page.read_text("utf-8"))}
)


def parsed(line: str) -> click.Context:
    """Return what a command line is parsed to; nothing is run."""
    words = shlex.split(line, comments=True)
    words = words[1 : words.index("&") if "&" in words else None]
    command: click.Command = get_command(app)
    context = None
    while isinstance(command, click.Group):
        context = command.make_context("ggl", list(words), parent=context)
        name, command, words = command.resolve_command(context, context._protected_args + context.args)
    return command.make_context(name, list(words), parent=context)


def test_commands_are_found():
    assert len(FOUND) > 60
    text = "```python\nggl nor\n```\nggl no\n```\nggl audit --out a \\\n    --images 3\nls\n```\nggl no\n"
    assert commands(text) == ["ggl audit --out a      --images 3"]


@pytest.mark.parametrize("line", FOUND)
def test_a_command_of_a_page_is_taken(line):
    assert parsed(line).command is not None


@pytest.mark.parametrize(
    "line",
    ["ggl audit --out a --imagez 3", "ggl adit --out a", "ggl audit --images three --out a", "ggl audit"],
)
def test_another_is_not(line):
    with pytest.raises(click.UsageError):
        parsed(line)

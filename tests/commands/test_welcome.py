"""`ggl` alone: what one can do next, in lines that work."""

import re

import pytest

from ggl.commands.welcome import WELCOME


def test_ggl_alone_says_what_one_can_do_next(ggl):
    code, output, errors = ggl()
    assert (code, errors) == (0, "")
    assert output.strip() == WELCOME
    assert 5 <= output.count("  ggl ") <= 7


def test_it_fits_a_terminal():
    assert max(map(len, WELCOME.splitlines())) <= 110
    assert WELCOME.count("\n") < 15


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"\bggl ((?:bench )?[a-z]+)\b", WELCOME)) - {"measures"})
)
def test_every_command_that_it_names_is_there(ggl, name):
    code, output, _ = ggl(*name.split(), "--help")
    assert code == 0
    assert "Usage:" in output


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<!ggl )--[a-z-]+", WELCOME))))
def test_every_option_that_it_names_is_one_of_audit(ggl, option):
    assert option in ggl("audit", "--help")[1]


def test_a_mistyped_command_is_still_an_error(ggl):
    code, _, errors = ggl("adit")
    assert code == 2
    assert "Did you mean 'audit'" in errors

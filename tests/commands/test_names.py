"""Names that are listed before what they name is imported."""

import inspect

import pytest

from ggl.base.errors import UnknownNameError
from ggl.commands.names import KINDS, check_names, completion, describe


@pytest.mark.parametrize("kind", KINDS)
def test_a_listed_line_is_the_first_of_the_docstring(kind):
    table = KINDS[kind]
    for name, summary in describe(kind).items():
        assert summary == inspect.getdoc(table[name]).partition("\n")[0]


def test_completion_gives_what_begins_so():
    assert [name for name, _ in completion("defenses")("prune")] == ["prune", "prune-global"]


def test_names_are_checked_part_by_part():
    check_names(victim="lenet", prior="pixels:1x8x8", strategies=["dlg", "cma-es:population=8"])
    check_names(defenses=["clip:4+noise:0.01", "torch.nn:Linear"])
    for wrong, nearest in (
        ({"defenses": ["clip:4+noisy:1"]}, "noise"),
        ({"victim": "lenett"}, "lenet"),
        ({"prior": "pixel:1x8x8"}, "pixels"),
        ({"strategies": ["adam", "cmaes"]}, "cma-es"),
    ):
        with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
            check_names(**wrong)

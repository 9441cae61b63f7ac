"""What a strategy's name asks of the attack is taken out of it."""

import pytest

from ggl.attacks.strategy_options import StrategyOptions, read_options
from ggl.base.errors import InputError


@pytest.mark.parametrize(
    ("strategy", "parts"),
    [
        ("adam", ("adam", None, False)),
        ("adam:starts=2", ("adam:starts=2", None, False)),
        ("adam:tune=0.01", ("adam", 0.01, False)),
        ("adam:tune=1e-4,starts=2", ("adam:starts=2", 1e-4, False)),
        ("mine.searchers:Mine:a=1,tune=2,b=3", ("mine.searchers:Mine:a=1,b=3", 2.0, False)),
        ("mine.searchers:Mine:tune=2", ("mine.searchers:Mine", 2.0, False)),
        ("gauss-newton:layers=head", ("gauss-newton", None, True)),
        ("cma-es:population=20, layers=head", ("cma-es:population=20", None, True)),
    ],
)
def test_the_options_are_taken_out_of_the_strategy(strategy, parts):
    assert read_options(strategy) == StrategyOptions(*parts)


def test_half_of_the_evaluations_are_the_searchers_where_a_generator_is_tuned():
    assert [read_options(name).own(501) for name in ("adam", "adam:tune=1", "adam:layers=head")] == [
        501,
        251,
        501,
    ]


@pytest.mark.parametrize(
    "text", ["tune=", "tune=0", "tune=-1", "tune=nan", "tune=inf", "tune=a", "tune=1,tune=1"]
)
def test_another_rate_is_refused(text):
    with pytest.raises(InputError, match="expected one rate above 0 after tune="):
        read_options(f"adam:{text}")


@pytest.mark.parametrize("text", ["layers=", "layers=all", "layers=head,layers=head"])
def test_other_layers_are_refused(text):
    with pytest.raises(InputError, match="expected layers=head, found"):
        read_options(f"adam:{text}")


@pytest.mark.parametrize("text", ["tune=0.1", "layers=head"])
def test_what_takes_the_options_is_named(text):
    with pytest.raises(InputError, match="auto takes no options; name one"):
        read_options(f"auto:{text}")


def test_a_generator_is_tuned_to_all_layers():
    with pytest.raises(InputError, match="expected tune=RATE or layers=head, found both"):
        read_options("adam:tune=0.1,layers=head")

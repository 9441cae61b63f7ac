"""What stands below an audit's table where defenses have guarantees."""

from ggl.commands.guarantee import bound_lines, bound_text


def cell(defense, kind, most=None, mechanism="gaussian", exceeded=()):
    numbers = (
        {"sensitivity": 4.0, "noise": 24.0} if most is not None else {"sensitivity": None, "noise": None}
    )
    found = {"kind": kind, "reason": "its bounds depend on the data", "most": {"identification": most}}
    found |= {"mechanism": None if most is None else mechanism, "exceeded": list(exceeded), **numbers}
    return {"defense": defense, "attacker": "naive", "guarantee": found}


def test_a_bound_stands_with_its_sensitivity_and_once_a_defense():
    cells = [cell("fed-cdp:4,6", "formal", 0.0154), cell("fed-cdp:4,6", "formal", 0.0154), cell("none", None)]
    assert [bound_text(c) for c in cells] == ["0.015", "0.015", "no proof"]
    assert bound_lines(cells)[1:] == ["  fed-cdp:4,6: 0.015, sensitivity 4, gaussian noise of 24"]


def test_a_nominal_guarantee_stands_with_its_reason_and_no_figure():
    cells = [cell("dynamic-dp:linear,clipping=median", "nominal")]
    assert bound_text(cells[0]) == "nominal"
    assert bound_lines(cells)[1].endswith("clipping=median: nominal, since its bounds depend on the data")


def test_nothing_stands_where_nothing_is_proved():
    assert bound_lines([cell("none", None), {"guarantee": None}]) == []
    assert bound_text({"guarantee": None}) == "no proof"


def test_what_is_exceeded_is_doubted():
    *_, last = bound_lines([cell("fed-cdp:4,6", "formal", 0.0154, exceeded=["identification"])])
    assert last.startswith("fed-cdp:4,6, naive: doubtful: more is found than the guarantee allows")

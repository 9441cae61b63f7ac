"""Names: registered, brought by entry points, or the user's own code."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from ggl.base.errors import InputError, UnknownNameError
from ggl.base.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("prior", "ggl.test-group")
    registry.register("apple")(1)
    registry.register("banana")(2)
    return registry


@pytest.fixture
def entry_point(monkeypatch):
    """A package that brings "cherry" to the registry's group."""
    point = EntryPoint("cherry", "math:tau", "ggl.test-group")
    monkeypatch.setattr(
        "ggl.base.registry.entry_points", lambda group: [point] if group == "ggl.test-group" else []
    )


def test_a_registered_name_is_found(registry):
    assert registry["apple"] == 1
    assert "apple" in registry
    assert registry.names() == ["apple", "banana"]


def test_register_hands_back_what_it_registers():
    entry = object()
    assert Registry("prior", "ggl.test-group").register("x")(entry) is entry


def test_an_unknown_name_is_told_with_the_nearest_one(registry):
    with pytest.raises(UnknownNameError) as error:
        registry["bananna"]
    assert str(error.value) == ("no prior is named 'bananna'; did you mean 'banana'? known: apple, banana")


@pytest.mark.parametrize("specification", ["appel:0.5", "appel:size=3", "two words:Thing"])
def test_options_of_a_misspelt_name_are_no_module(registry, specification):
    with pytest.raises(UnknownNameError, match=r"known: apple, banana$"):
        registry.resolve(specification)


def test_a_name_far_from_all_gets_no_guess(registry):
    with pytest.raises(UnknownNameError, match=r"no prior is named 'zzz'; known: apple, banana"):
        registry["zzz"]


def test_a_taken_name_is_refused(registry):
    with pytest.raises(InputError, match="the prior name 'apple' is taken already"):
        registry.register("apple")(3)
    assert registry["apple"] == 1


def test_an_entry_point_brings_a_name(registry, entry_point):
    assert registry["cherry"] == pytest.approx(6.283185307)
    assert registry.names() == ["apple", "banana", "cherry"]


def test_the_name_of_an_entry_point_is_taken_too(registry, entry_point):
    with pytest.raises(InputError, match="taken already"):
        registry.register("cherry")(3)


def test_resolve_splits_the_parameter_off(registry):
    assert registry.resolve("apple") == (1, None)
    assert registry.resolve("apple:0.5") == (1, "0.5")
    assert registry.resolve("apple:file:c") == (1, "file:c")
    assert registry.resolve("apple:") == (1, None)


def test_resolve_imports_the_users_own_code(registry, monkeypatch):
    module = types.ModuleType("some_package.things")
    module.Thing = object()
    monkeypatch.setitem(sys.modules, "some_package", types.ModuleType("some_package"))
    monkeypatch.setitem(sys.modules, "some_package.things", module)
    assert registry.resolve("some_package.things:Thing") == (module.Thing, None)
    assert registry.resolve("some_package.things:Thing:a=1,b=c:d") == (module.Thing, "a=1,b=c:d")
    assert registry.resolve("some_package.things:Thing,a=1,b=c:d") == (module.Thing, "a=1,b=c:d")


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("no_such.package:Thing", "no_such.package cannot be imported"),
        ("os.path:nothing", "os.path has no 'nothing'"),
        ("./file.pkl:x", "found a relative name"),
        ("appel:0.5", "did you mean 'apple'"),
        ("nomodule:Thing", "known: apple, banana; and no module nomodule is found from here to import"),
        ("os.path", "no prior is named 'os.path'"),
        ("", "no prior is named ''"),
    ],
)
def test_what_cannot_be_resolved_says_why(registry, specification, reason):
    with pytest.raises(UnknownNameError, match=reason):
        registry.resolve(specification)

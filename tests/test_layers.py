"""The order of the packages: no import runs upwards, none in a circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

ORDER = [
    "ggl.base",
    "ggl.datasets",
    "ggl.victims",
    "ggl.measures",
    "ggl.pages",
    "ggl.gradients",
    "ggl.generators",
    "ggl.optimizers",
    "ggl.defenses",
    "ggl.costs",
    "ggl.attacks",
    "ggl.audits",
    "ggl.i2f",
    "ggl.prior_reports",
    "ggl.captures",
    "ggl",
    "ggl.commands",
    "ggl.benchmarks",
    "ggl.cli",
]
"""Ground first: a package imports from itself and from those before it. `ggl` is its `__init__`."""


def module_name(file: Path) -> str:
    """Return the name by which a file is imported: the three outer folders lie in `ggl` too."""
    parts = [*file.relative_to(ROOT).with_suffix("").parts]
    if parts[0] != "ggl":
        parts = ["ggl", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files() -> Iterator[Path]:
    """Yield every source file and stub of the product, links not followed."""
    for folder in ("ggl", "generators", "optimizers", "benchmarks"):
        for pattern in ("*.py", "*.pyi"):
            yield from (
                f for f in (ROOT / folder).rglob(pattern) if not any(p.is_symlink() for p in f.parents)
            )


FILES = {file: module_name(file) for file in sorted(source_files())}
MODULES = {*FILES.values()}
LAZY = {
    (name, alias.name): f"{name}.{node.module}"
    for file, name in FILES.items()
    if file.suffix == ".pyi"
    for node in ast.parse(file.read_text("utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
"""What a package hands on of its modules, (package, name), by the module that has it."""


def imports_of(file: Path, name: str) -> set[str]:
    """Return the modules that a file imports: anywhere in it, for types alone, in annotations as text."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"{name}.{node.module}" if node.level else node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in MODULES else LAZY.get((module, alias.name), module))
        elif isinstance(node, ast.arg | ast.AnnAssign | ast.FunctionDef):
            annotation = node.returns if isinstance(node, ast.FunctionDef) else node.annotation
            text = "" if annotation is None else ast.unparse(annotation)
            found |= {match.rpartition(".")[0] for match in re.findall(r"\bggl(?:\.\w+)+", text)}
    return {module for module in found if module.partition(".")[0] == "ggl"}


def package_of(module: str) -> str:
    return max((p for p in ORDER if module == p or module.startswith(f"{p}.")), key=len)


IMPORTS: dict[str, set[str]] = {}
for source, module in FILES.items():
    IMPORTS.setdefault(module, set()).update(imports_of(source, module))


def test_imports_are_found_wherever_they_stand(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import json\nfrom typing import TYPE_CHECKING\nfrom ggl.gradients import Gradients\n"
        "if TYPE_CHECKING:\n    from ggl.audits.report import Report\n"
        "def f(a: 'ggl.i2f.problem.Influence') -> 'list[ggl.costs.utility.Utility]':\n"
        "    import ggl.cli\n    from ggl.benchmarks import commands\n"
    )
    assert imports_of(file, "ggl.base.module") == {
        "ggl.audits.report",
        "ggl.benchmarks.commands",
        "ggl.cli",
        "ggl.costs.utility",
        "ggl.gradients.view",
        "ggl.i2f.problem",
    }


def test_no_import_runs_upwards():
    upwards = [
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in targets
        if ORDER.index(package_of(target)) > ORDER.index(package_of(module))
    ]
    assert upwards == []


def test_no_import_runs_in_a_circle():
    # A package's face hands names on; who imports one of them needs its module, and not the others.
    modules = {module: targets - {module} for module, targets in IMPORTS.items()}
    faces = {module_name(file) for file in FILES if file.suffix == ".pyi"}
    try:
        TopologicalSorter({m: t - faces for m, t in modules.items() if m not in faces}).prepare()
    except CycleError as error:
        raise AssertionError(f"circle: {' -> '.join(error.args[1])}") from error


def test_every_package_stands_in_the_order():
    """A new folder that the order does not name would fall to `ggl` itself and escape the test."""
    folders = {".".join(module.split(".")[:2]) for module in MODULES if module.count(".") > 1}
    assert folders <= {*ORDER}
    assert {module for module in MODULES if package_of(module) == "ggl"} == {"ggl"}


EXAMPLE = re.compile(r"\n\n +Examples:\n.*?(?=\n +\"{3}\n)", re.DOTALL)


def test_modules_are_short():
    """One concept a module; the command line is the one long list. Examples in docstrings do not count."""
    texts = {name: EXAMPLE.sub("", file.read_text("utf-8")) for file, name in FILES.items()}
    long = {name for name, text in texts.items() if len(text.splitlines()) > 300}
    assert long <= {"ggl.cli"}


GIVEN = {"self", "cls", "latent_dim", "budget", "seed"}
"""What is no option: of a method, and of every strategy, whose other arguments are typed in its name."""


def test_functions_take_few_arguments():
    """Ten at most, but for public names, whose keywords are their users', and for commands."""
    public = {name for package, name in LAZY if package == "ggl"}
    for file, name in FILES.items():
        if name in ("ggl.cli", "ggl.benchmarks.cli"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name not in public:
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                assert len({*names} - GIVEN) <= 10, f"{name}.{node.name}"

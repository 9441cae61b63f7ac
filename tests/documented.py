"""The code of a documentation page as a module, to be tested as a reader would use it."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs"


def python_of(page: str) -> str:
    """Return the page's Python blocks, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (PAGES / page).read_text("utf-8"), re.DOTALL))


@contextmanager
def example_module(page, module, registry, monkeypatch, folder) -> Iterator[None]:
    """Import the page's Python blocks, one after the other, as `module`; its registration is undone."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    (folder / f"{module}.py").write_text(python_of(page))
    monkeypatch.syspath_prepend(folder)
    importlib.import_module(module)
    yield
    del sys.modules[module]

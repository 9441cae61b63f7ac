"""The README's Python example runs as written."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["result"].loss < 0.5
    assert (tmp_path / "runs" / "python" / "result.json").exists()
    assert (tmp_path / "runs" / "python" / "report.html").exists()


def test_the_influence_pages_example_runs_as_written(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "i2f.md").read_text(), re.S)
    exec(compile(example, "i2f.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) < 1

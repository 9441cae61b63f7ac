"""Evidence as an archive: the same bytes for the same content, and every change found by its name."""

import csv
import io
import json
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from ggl.audits.evidence import Evidence, differences, flatten, read_evidence
from ggl.base.errors import GGLError, InputError

RUN_CONTENT = {"command": "ggl audit", "options": {"budget": 64}, "files": {"a.pt": "0" * 64}}
RESULT_CONTENT = {
    "settings": {"seed": 0, "prior_doubts": []},
    "results": [{"leak_score": {"mean": 0.41, "low": None}, "leaks": True, "verdict": "leaks"}],
}
PICTURES = {"images/private-000.png": b"picture"}


def made(run=RUN_CONTENT, result=RESULT_CONTENT, timing=1.5, pictures=PICTURES):
    return Evidence(run, result, "<html>page</html>", timing, pictures)


def written(path, members):
    """Write members as they are, in their order, as another tool would."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def file(tmp_path):
    (tmp_path / "evidence.zip").write_bytes(made().pack())
    return tmp_path / "evidence.zip"


@pytest.fixture
def members(file):
    return read_evidence(file)


def found(tmp_path, members):
    path = written(tmp_path / "tampered.zip", members)
    return differences(path, read_evidence(path))


def edited(content, change):
    value = json.loads(content)
    change(value)
    return json.dumps(value, indent=1).encode()


def test_evidence_as_it_was_packed_has_no_difference(file, members):
    assert differences(file, members) == []
    assert list(members) == [
        *("manifest.json", "images/private-000.png", "report.html", "result.json", "run.json"),
        *("timing.json", "values.csv"),
    ]
    assert json.loads(members["result.json"]) == RESULT_CONTENT
    rows = list(csv.reader(io.StringIO(members["values.csv"].decode())))
    assert ["result.json", "results[0].leak_score.mean", "0.41"] in rows
    assert ["run.json", "options.budget", "64"] in rows


def test_the_same_content_is_the_same_bytes_and_time_stands_alone():
    assert made().pack() == made().pack()
    one, other = (read(made(timing=timing).pack()) for timing in (1.5, 2.5))
    assert {name for name in one if one[name] != other[name]} == {"timing.json"}


def read(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "images/private-000.png", "report.html", "result.json", "run.json"),
        *("timing.json", "values.csv"),
    ],
)
@pytest.mark.parametrize("how", ["a byte more", "cut short", "no text"])
def test_a_changed_member_is_found_by_name(tmp_path, members, name, how):
    old = members[name]
    members[name] = {"a byte more": old + b" ", "cut short": old[:-5], "no text": b"\xff\x00"}[how]
    lines = found(tmp_path, members)
    spaced = how == "a byte more" and name in ("manifest.json", "timing.json")
    assert lines
    if spaced:
        assert lines[0].startswith(("timing.json: of another manifest", "the archive: packed anew"))
    else:
        assert any(line.startswith(name) for line in lines)


@pytest.mark.parametrize(
    ("member", "change", "line"),
    [
        (
            "result.json",
            lambda v: v["results"][0]["leak_score"].update(mean=0.04),
            "result.json: results[0].leak_score.mean is 0.04, values.csv has 0.41",
        ),
        (
            "result.json",
            lambda v: v["results"][0]["leak_score"].update(low=0.1),
            "result.json: results[0].leak_score.low is 0.1, values.csv has null",
        ),
        (
            "result.json",
            lambda v: v["results"][0].update(leaks=False),
            "result.json: results[0].leaks is false, values.csv has true",
        ),
        (
            "result.json",
            lambda v: v["results"][0].update(verdict="no leak shown"),
            'result.json: results[0].verdict is "no leak shown", values.csv has "leaks"',
        ),
        (
            "result.json",
            lambda v: v["settings"].update(seed=1),
            "result.json: settings.seed is 1, values.csv has 0",
        ),
        (
            "result.json",
            lambda v: v["settings"]["prior_doubts"].append("a doubt"),
            "result.json: settings.prior_doubts is not there, values.csv has []",
        ),
        (
            "result.json",
            lambda v: v["results"].clear(),
            "result.json: results[0].leak_score.mean is not there, values.csv has 0.41",
        ),
        (
            "run.json",
            lambda v: v["options"].update(budget=6400),
            "run.json: options.budget is 6400, values.csv has 64",
        ),
        (
            "run.json",
            lambda v: v["files"].update({"a.pt": "1" * 64}),
            f'run.json: files["a.pt"] is "{"1" * 64}", values.csv has "{"0" * 64}"',
        ),
        (
            "run.json",
            lambda v: v.update(more=1),
            "run.json: more is 1, values.csv has not there",
        ),
    ],
)
def test_a_changed_value_is_named_by_its_path_with_what_it_was(tmp_path, members, member, change, line):
    members[member] = edited(members[member], change)
    lines = found(tmp_path, members)
    assert lines[0] == f"{member}: changed, its SHA-256 is not the manifest's"
    assert line in lines


def test_a_figure_changed_in_the_file_itself_is_named_as_any_other(file):
    """Byte by byte, so that the archive's own checksum is wrong."""
    content = file.read_bytes()
    assert content.count(b'"mean": 0.41') == 1
    file.write_bytes(content.replace(b'"mean": 0.41', b'"mean": 0.04'))
    assert differences(file, read_evidence(file)) == [
        "result.json: changed, its SHA-256 is not the manifest's",
        "result.json: results[0].leak_score.mean is 0.04, values.csv has 0.41",
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_byte_of_the_file_can_change_unseen(file, seed):
    random = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    file.write_bytes(content)
    with suppress(GGLError):  # where it is no archive any more
        assert differences(file, read_evidence(file))


def test_a_value_changed_in_the_table_is_named_too(tmp_path, members):
    members["values.csv"] = members["values.csv"].replace(b"0.41", b"0.04")
    assert found(tmp_path, members) == [
        "values.csv: changed, its SHA-256 is not the manifest's",
        "result.json: results[0].leak_score.mean is 0.41, values.csv has 0.04",
    ]


def test_changes_without_number_are_counted(tmp_path):
    result = {"settings": {}, "results": list(range(100))}
    (tmp_path / "evidence.zip").write_bytes(made(result=result).pack())
    members = read_evidence(tmp_path / "evidence.zip")
    members["result.json"] = edited(members["result.json"], lambda v: v.update(results=[-1] * 100))
    lines = found(tmp_path, members)
    assert len(lines) == 14
    assert lines[-1] == "result.json: and 88 values more"


def test_renamed_added_and_missing_members(tmp_path, members):
    renamed = {
        "figures.json" if name == "result.json" else name: content for name, content in members.items()
    }
    assert found(tmp_path, renamed) == ["result.json: renamed, it is figures.json now"]
    assert found(tmp_path, {**members, "more.txt": b"1"}) == [
        "more.txt: added, the manifest does not name it"
    ]
    for name in members:
        left = {other: content for other, content in members.items() if other != name}
        assert f"{name}: missing" in found(tmp_path, left)


def test_a_manifest_that_follows_a_change_is_found_out(tmp_path, members):
    """The hash of the changed member is set in the manifest, and not the manifest's own."""
    changed = read(made(result={"settings": {}, "results": []}).pack())
    hashes = json.loads(changed["manifest.json"])["members"]
    members["manifest.json"] = edited(members["manifest.json"], lambda v: v.update(members=hashes))
    members["result.json"] = changed["result.json"]
    lines = found(tmp_path, members)
    assert "manifest.json: changed since it was written" in lines
    assert "result.json: settings.seed is not there, values.csv has 0" in lines
    assert "timing.json: of another manifest" in lines


def test_time_of_another_run_and_of_another_manifest(tmp_path, members):
    members["timing.json"] = edited(members["timing.json"], lambda v: v.update(timing=0.1))
    assert found(tmp_path, members) == ["timing.json: changed since it was written"]
    members["timing.json"] = read(made(pictures={}).pack())["timing.json"]
    assert found(tmp_path, members) == ["timing.json: of another manifest"]


def test_an_archive_packed_anew_is_not_the_file_that_was_published(tmp_path, file, members):
    (line,) = found(tmp_path, members)
    assert line == "the archive: packed anew, or with something beside its members"
    file.write_bytes(file.read_bytes() + b"more")
    assert differences(file, read_evidence(file)) == [line]


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(10_000_000))


def overlapping(path):
    """Two entries of one place."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", bytes(1000))
        twin = zipfile.ZipInfo("result.json")
        twin.file_size = twin.compress_size = 1000
        twin.CRC, twin.header_offset = archive.infolist()[0].CRC, 0
        archive.filelist.append(twin)
        archive.NameToInfo["result.json"] = twin


def twice(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("manifest.json", b"{}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, "expected members that are not compressed"),
        (overlapping, "expected members within"),
        (twice, "expected every member once"),
        (lambda path: written(path, {"../manifest.json": b"{}"}), "outside itself"),
        (lambda path: written(path, {"/manifest.json": b"{}"}), "outside itself"),
        (
            lambda path: written(path, {"a.txt": b""}),
            "expected a file of `ggl audit --evidence`, found a.txt",
        ),
        (lambda path: written(path, {}), "found nothing"),
        (lambda path: path.write_bytes(b"no archive"), "expected a zip archive"),
        (lambda path: path.write_bytes(made().pack()[:-100]), "expected a zip archive"),
        (lambda path: path.mkdir(), "expected a zip archive"),
        (lambda path: None, "expected a zip archive"),
    ],
)
def test_what_is_no_evidence_is_refused_in_a_line(tmp_path, make, message):
    make(tmp_path / "file.zip")
    with pytest.raises(GGLError, match=message) as error:
        read_evidence(tmp_path / "file.zip")
    assert "\n" not in str(error.value)


def test_json_that_is_nested_without_end_or_of_no_number(tmp_path, members):
    for content in (b"[" * 100_000, b'{"a": NaN}', b"[1]", b'{"a": ' + b"9" * 5000 + b"}"):
        lines = found(tmp_path, {**members, "result.json": content})
        assert any(line.startswith("result.json: expected ") for line in lines)


def test_paths_of_names_with_dots():
    assert dict(flatten({"a": {"b.c": 1}, "d.e": [2]})) == {'a["b.c"]': "1", '["d.e"][0]': "2"}


def test_figures_that_json_does_not_know_are_not_packed():
    with pytest.raises(ValueError, match="JSON"):
        made(result={"a": float("nan")}).pack()
    assert issubclass(InputError, ValueError)

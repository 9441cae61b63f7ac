"""The README and the pages are short, begin with a command and say nothing twice; links lead somewhere."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if DOCS / "shown" not in page.parents]
"""Without the copies that `make docs` shows on the site."""

WRITTEN = [page for page in PAGES if page.parent.name != "reproductions" and page.name != "leaderboard.md"]
"""By hand; reproductions and the leaderboard are pages that commands make."""

SHINGLE = 30
"""Words in a row that stand at one place only."""

FENCE = re.compile(r"^\s*(```|~~~)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def outside_code(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page and their numbers, code blocks left out."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def slug(heading: str) -> str:
    """Return the anchor that Python-Markdown's toc makes of a heading's Markdown."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(text: str) -> set[str]:
    """Return every anchor of a page: of its headings, a number behind one that is taken, and written out."""
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for _, line in outside_code(text):
        if heading := re.match(r"#{1,6}\s+(.*?)\s*#*$", line):
            base = anchor = slug(heading[1])
            number = 0
            while anchor in found:
                number += 1
                anchor = f"{base}_{number}"
            found.add(anchor)
    return found


def links(text: str) -> list[tuple[int, str]]:
    """Return the line and the target of every link and picture; what stands in code is none."""
    found = []
    for number, line in outside_code(text):
        prose = re.sub(r"`[^`]*`", "code", line)
        targets = [
            *re.findall(r"\]\(\s*<?([^)\s>]+)", prose),
            *re.findall(r'<img[^>]*\ssrc="([^"]+)"', prose),
        ]
        found += [(number, target) for target in targets]
    return found


def broken(page: Path, text: str) -> list[str]:
    """Return what a page links to that isn't there: files, pictures, anchors."""
    wrong = []
    for number, target in links(text):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{name(page)}:{number}: {target}")
        elif (
            anchor
            and file.suffix == ".md"
            and anchor not in anchors(file.read_text("utf-8") if path else text)
        ):
            wrong.append(f"{name(page)}:{number}: {target}: no such heading")
    return wrong


def paragraphs(text: str) -> Iterator[list[str]]:
    """Yield the words of each paragraph and list entry; headings, tables and code are none."""
    words: list[str] = []
    last = 0
    for number, line in outside_code(text):
        apart = not line.strip() or line.lstrip().startswith(("|", "#"))
        if (apart or number != last + 1 or re.match(r"\s*([-*]|\d+\.)\s", line)) and words:
            yield words
            words = []
        last = number
        if not apart:
            words += re.findall(r"\w+(?:['.,]\w+)*", line.lower())
    if words:
        yield words


def twice(pages: dict[str, str]) -> dict[str, list[str]]:
    """Return the rows of words that stand at more than one place, each with the pages that have them."""
    places: dict[str, list[str]] = {}
    for where, text in pages.items():
        for words in paragraphs(text):
            for start in range(len(words) - SHINGLE + 1):
                places.setdefault(" ".join(words[start : start + SHINGLE]), []).append(where)
    return {row: where for row, where in places.items() if len(where) > 1}


def begins_with_a_command(text: str) -> bool:
    """Whether a heading is first, and a code block or a command begins within 25 lines."""
    lines = text.splitlines()
    command = re.compile(r"`(?:ggl|make|python|pytest|pip) [^`]+`")
    return lines[0].startswith("# ") and any(FENCE.match(line) or command.search(line) for line in lines[:25])


def test_the_readme_is_short():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_a_page_is_short(page):
    assert len(page.read_text("utf-8").splitlines()) <= 250


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_begins_with_what_it_is_and_a_command(page):
    assert begins_with_a_command(page.read_text("utf-8"))


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=name)
def test_links_lead_somewhere(page):
    assert broken(page, page.read_text("utf-8")) == []


def test_nothing_is_said_twice():
    found = twice({name(page): page.read_text("utf-8") for page in [README, *WRITTEN]})
    assert [f"{' and '.join(where)}: {row}" for row, where in found.items()] == []


def test_every_page_is_in_the_contents():
    """The start page links to each."""
    index = DOCS / "index.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for _, target in links(index.read_text("utf-8"))}
    assert [name(page) for page in PAGES if page != index and page.resolve() not in linked] == []


WORDS = " ".join(f"word{k}" for k in range(SHINGLE))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](figures.md) [b](figures.md#verdicts) [c](#here)\n# Here", 0),
        ("[a](https://example.org/none) `[a](none.md)`\n```\n[a](none.md)\n```", 0),
        ("[a](none.md)", 1),
        ("[a](figures.md#none)", 1),
        ("# Here\n[a](#there)", 1),
        ("![a](images/none.png)", 1),
        ('<img src="images/none.png">', 1),
        ("[![a](images/none.png)](figures.md)", 1),
    ],
)
def test_a_broken_link_is_found(text, wrong):
    assert len(broken(DOCS / "index.md", text)) == wrong


def test_a_paragraph_that_is_nearly_another_is_found():
    apart = {"a": f"First {WORDS}.", "b": f"- Second\n  {WORDS.replace(' ', chr(10), 1)} and more."}
    assert list(twice(apart).values()) == [["a", "b"]]
    assert twice({"a": f"{WORDS}\n\n{WORDS}"}) != {}
    assert twice({"a": WORDS.replace("word7 ", "other "), "b": WORDS}) == {}
    assert twice({"a": f"| {WORDS} |", "b": WORDS, "c": f"```\n{WORDS}\n```"}) == {}


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("# A\n\nWhat.\n\n```\nggl demo\n```", True),
        ("# A\n\nWhat: `ggl demo --images 2`.", True),
        ("# A\n\nWhat.", False),
        ("What.\n```\nggl demo\n```", False),
        ("# A\n" + "\n" * 30 + "```\nggl demo\n```", False),
    ],
)
def test_a_page_without_a_command_is_found(text, well):
    assert begins_with_a_command(text) is well


def test_anchors_are_those_of_the_site():
    headings = (
        "# What `ggl` is: 2x\n## Seconds to the loop's end, in one run\n## A\n## A\n## ε, Σ²\n```\n# No\n```"
    )
    assert anchors(headings) == {"what-ggl-is-2x", "seconds-to-the-loops-end-in-one-run", "a", "a_1", "2"}

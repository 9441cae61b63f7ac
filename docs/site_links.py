"""For the site (`make docs`): links of pages to files outside of docs/ lead to copies in docs/shown/."""

import re

OUTSIDE = re.compile(r"\]\(((?:\.\./)*)\.\./(benchmarks|generators)/")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page whose links to results and model cards stay within the site."""
    return OUTSIDE.sub(r"](\1shown/\2/", markdown)

"""Citations lead somewhere: code cites headings of pages in `docs/`, and those pages link to what exists."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CODE = (".py", ".sql", ".toml")
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "datasets" / "FORMAT.md", *sorted(DOCS.rglob("*.md"))]

CITATION = re.compile(r"\bdocs/([\w/-]+\.md)(?:#([\w-]+))?")
LINK = re.compile(r"\]\(((?!\w+:)[^)\s]+)\)")
OUTSIDE = re.compile(r"lensnet-[a-z0-9-]*\.md|\bDESIGN(?:\.md)?[ ](?:§|section)")
"""the five source documents and the design notes, which are not in this repository"""


def code_files() -> Iterator[Path]:
    """Every source file, once: symbolic links to folders are not followed, environments are left out."""
    for folder, subfolders, names in os.walk(ROOT):
        here = Path(folder)
        subfolders[:] = [
            name for name in subfolders if name[0] != "." and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in sorted(names) if name.endswith(CODE))


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> Counter[str]:
    """Anchors of a page's headings, as GitHub and mkdocs both make them of ASCII text."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code_blocks(text), flags=re.MULTILINE)
    return Counter(re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)


def why_dangling(page: Path, anchor: str | None) -> str | None:
    if not page.exists():
        return f"{page.relative_to(ROOT)} does not exist"
    if anchor and page.suffix == ".md" and anchor not in anchors(page.read_text(encoding="utf-8")):
        return f"{page.relative_to(ROOT)} has no heading #{anchor}"
    return None


def test_every_citation_in_code_leads_to_a_heading():
    cited, dangling = 0, []
    for file in code_files():
        text = file.read_text(encoding="utf-8")
        for match in CITATION.finditer(text):
            cited += 1
            if why := why_dangling(DOCS / match[1], match[2]):
                line = text.count("\n", 0, match.start()) + 1
                dangling.append(f"{file.relative_to(ROOT)}:{line}: {why}")
    assert not dangling, "\n".join(dangling)
    assert cited > 30, "the code's definitions cite docs/specification"


def test_no_code_cites_a_document_that_is_not_here():
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in code_files()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if OUTSIDE.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_headings_and_files(page):
    text = page.read_text(encoding="utf-8")
    targets = [link.partition("#") for link in LINK.findall(without_code_blocks(text))]
    dangling = [
        why
        for path, _, anchor in targets
        if (why := why_dangling((page.parent / path).resolve() if path else page, anchor))
    ]
    assert not dangling, "\n".join(dangling)
    assert max(anchors(text).values()) == 1, "two headings of one page need different words"

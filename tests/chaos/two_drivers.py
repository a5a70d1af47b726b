"""Two collections into one store at the same time: corpora that overlap, and corpora of near-duplicates."""

from pathlib import Path

from mctrace.datasets.sql.connection import connect, fetch_rows
from tests.chaos.findings import Findings, compare, opened, problems
from tests.chaos.fixture import Fixture

_NUM_PAIRS = 20


def overlapping_corpora(fixture: Fixture) -> Findings:
    """Two at once over corpora that overlap, against one after the other."""
    texts = sorted(fixture.corpus.iterdir())
    store, alone = fixture.folder / "two", fixture.folder / "one-by-one"
    drivers = [fixture.start(store, "--no-ray", corpora=chosen) for chosen in (texts[:10], texts[4:])]
    for driver in drivers:
        fixture.finish(driver)
    for chosen in (texts[:10], texts[4:]):
        fixture.finish(fixture.start(alone, "--no-ray", corpora=chosen))
    return compare(opened(store), opened(alone))


def near_duplicates(fixture: Fixture) -> Findings:
    """Each driver has one of every pair of near-duplicates: all are measured, no pair is in two splits."""
    store = fixture.folder / "near-duplicates"
    drivers = [
        fixture.start(store, "--no-ray", corpora=[_write_side(fixture.folder / name, name)])
        for name in ("left", "right")
    ]
    for driver in drivers:
        fixture.finish(driver)
    with connect(opened(store).at()) as connection:
        pairs = fetch_rows(connection, _PAIRS)
    return Findings(
        lost=2 * _NUM_PAIRS - sum(pair["num_documents"] for pair in pairs),
        dangling=len(problems(opened(store))) + sum(pair["num_splits"] > 1 for pair in pairs),
    )


_PAIRS = """
    select count(distinct document_id) as num_documents, count(distinct split) as num_splits
    from documents group by regexp_extract(source, 'text([0-9]+)', 1)"""


def _write_side(folder: Path, name: str) -> Path:
    """One text of each pair; they differ in one word of sixty."""
    folder.mkdir()
    for i in range(_NUM_PAIRS):
        words = [f"{chr(97 + (i * 7 + j * j) % 26)}{(i + 3) * (j + 5) % 97}" for j in range(60)]
        (folder / f"text{i:02d}.txt").write_text(" ".join([*words[:20], name, *words[20:]]))
    return folder

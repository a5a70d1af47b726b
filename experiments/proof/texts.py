"""Other people's texts: sources and prose from packages of PyPI, each on one side of the split.

Nobody here wrote them, and nothing here was trained on them: GistNet and LensNet learn from Python's own
standard library. Whoever runs the experiment downloads them into its folder; they are never redistributed.
A package is a work, and a work is a development or a test text as a whole.
"""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mctrace.errors import InputError


@dataclass(frozen=True)
class Work:
    """A package's texts: files below `inside` with the ending `suffix`."""

    requirement: str
    split: str
    genre: str
    inside: str
    suffix: str
    is_source: bool = False
    """a source distribution, which holds documentation that the wheel lacks"""

    @property
    def name(self) -> str:
        return self.requirement.partition("==")[0]


WORKS = (
    Work("networkx==3.5", "development", "sources", "networkx", ".py"),
    Work("sphinx==8.2.3", "development", "prose", "doc", ".rst", is_source=True),
    Work("sympy==1.14.0", "test", "sources", "sympy", ".py"),
    Work("twisted==25.5.0", "test", "sources", "twisted", ".py"),
    Work("django==5.2", "test", "prose", "docs", ".txt", is_source=True),
)
GENRES = ("sources", "prose")
_LEFT_OUT = ("test", "tests", "locale", "parsetab")
"""folders, and files whose names contain one of them, that hold data rather than text"""
_LEAST_CHARACTERS = 12_000
"""of a file: less than some 3,000 tokens fit no experiment here"""


def fetch_texts(folder: Path) -> Path:
    """`folder`/texts with development/ and test/ below it; what is there is not downloaded again.

    Raises InputError when pip cannot download a package.
    """
    texts = folder / "texts"
    for work in WORKS:
        target = texts / work.split / work.genre / work.name
        if target.is_dir():
            continue
        partial = target.with_name(f"{work.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        for name, content in _files_of(_download(work, folder / "downloads"), work):
            (partial / name).write_text(content, encoding="utf-8")
        partial.rename(target)
    return texts


def _download(work: Work, folder: Path) -> Path:
    """The package's archive, by pip."""
    into = folder / work.requirement
    if not any(into.glob("*")):
        print(f"downloading {work.requirement}", flush=True)
        chosen = ["--no-binary", work.name] if work.is_source else ["--only-binary", ":all:"]
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            *chosen, "--dest", str(into), work.requirement,
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            raise InputError(
                f"pip could not download {work.requirement}, whose texts the proof reads: connect to PyPI, "
                f"or put its archive into {into}"
            )
    return next(into.iterdir())


def _files_of(archive: Path, work: Work) -> Iterator[tuple[str, str]]:
    """(flat name, text) of every file that is long enough, in the order of their names."""
    for name, content in sorted(_members(archive)):
        path = PurePosixPath(name)
        parts = path.parts[1:] if work.is_source else path.parts
        if parts[:1] != (work.inside,) or path.suffix != work.suffix:
            continue
        if any(left_out in part for part in parts for left_out in _LEFT_OUT):
            continue
        text = content.decode("utf-8", errors="ignore")
        if len(text) >= _LEAST_CHARACTERS:
            suffix = ".py" if work.genre == "sources" else ".txt"
            yield f"{'-'.join(parts).removesuffix(work.suffix)}{suffix}", text


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whole:
            for name in whole.namelist():
                if not name.endswith("/"):
                    yield name, whole.read(name)
        return
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            if member.isfile() and (file := packed.extractfile(member)):
                yield member.name, file.read()

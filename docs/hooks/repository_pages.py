"""Pages of the site that do not lie in docs/, so that every link is written as it works in the repository.

Three kinds: pages that live beside what they describe (the store's format, result pages, the contributor's
guide), the pictures those show, and the API reference, one generated page per folder of modules.
"""

import shutil
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "benchmarks/EVALUATOR.md",
    "benchmarks/LABELS.md",
    "benchmarks/results/*.svg",
    "datasets/FORMAT.md",
    "experiments/CLOSED_LOOP.md",
    "experiments/TRAINING.md",
    "experiments/LEARNED_PRICE.md",
    "experiments/RESIDUALS.md",
    "experiments/PREFERENCES.md",
    "experiments/PROTOCOL.md",
    "experiments/results/gists.json",
    "gists/shipped/*/MODEL_CARD.md",
)
"""patterns, relative to the repository's root, of what the site shows besides docs/"""
PACKAGE = ROOT / "build" / "docs" / "mctrace"
"""where griffe finds the package, by the `paths` of mkdocs.yml"""


class RepositoryFiles(Files):
    """Files of the site, found by their path in the repository, as seen from docs/."""

    def get_file_from_path(self, path: str) -> File | None:
        return super().get_file_from_path(path.removeprefix("../docs/"))


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the package for griffe, with an `__init__.py` in every folder.

    Rooms have none, and griffe does not read such folders below a package that has one.
    """
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for folder in (folder for room in _rooms() for folder in _folders(room)):
        copy = PACKAGE / folder.relative_to(ROOT) if folder != ROOT / "mctrace" else PACKAGE
        copy.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.py"):
            (copy / file.name).symlink_to(file)
        for parent in (copy, *copy.parents):
            if parent.is_relative_to(PACKAGE):
                init = parent / "__init__.py"
                if not init.exists():
                    init.touch()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API reference to the navigation: the package's face, then the rooms from top to bottom."""
    assert config.nav is not None, "mkdocs.yml has a nav"
    sections = [
        {room: [{_dotted(folder): _reference_page(folder)} for folder in _folders(room)]} for room in _rooms()
    ]
    config.nav.append({"API reference": sections})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and the generated ones."""
    outside = [_outside_file(path, config) for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    reference = [
        File.generated(config, _reference_page(folder), content=_reference(folder))
        for room in _rooms()
        for folder in _folders(room)
    ]
    return RepositoryFiles([*files, *outside, *reference])


def _outside_file(path: Path, config: MkDocsConfig) -> File:
    inside = path.relative_to(ROOT)
    destination = inside.with_suffix(".html") if path.suffix == ".md" else inside
    return File(
        f"../{inside}",
        config.docs_dir,
        config.site_dir,
        config.use_directory_urls,
        dest_uri=destination.as_posix(),
        inclusion=InclusionLevel.INCLUDED,  # undefined, `..` would count as a hidden file
    )


def _rooms() -> list[str]:
    """The folders of modules at the top, in the order in which the import contract lists them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["importlinter"]["root_packages"]
    return ["mctrace", *(package.removeprefix("mctrace.") for package in packages)]


def _folders(room: str) -> list[Path]:
    """The room's folders that hold modules, the room itself first."""
    folders = {file.parent for file in (ROOT / room).rglob("*.py")}
    return sorted(folders)


def _dotted(folder: Path) -> str:
    inside = folder.relative_to(ROOT).as_posix().replace("/", ".")
    return inside if inside == "mctrace" else f"mctrace.{inside}"


def _reference_page(folder: Path) -> str:
    return f"reference/{_dotted(folder)}.md"


def _reference(folder: Path) -> str:
    """A page with the docstrings of every public module of a folder, the folder's own docstring first."""
    dotted = _dotted(folder)
    modules = [f"{dotted}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem[0] != "_"]
    own = [dotted] if (folder / "__init__.py").exists() else []
    return "\n\n".join([f"# {dotted}", *(f"::: {module}" for module in own + modules)]) + "\n"

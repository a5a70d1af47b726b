"""Push: a store, an export or a checkpoint becomes a repository of a hub, with a card."""

import shutil
import tempfile
from pathlib import Path
from typing import Protocol, runtime_checkable

from mctrace.datasets.export.export import ExportRequest, export
from mctrace.datasets.store.store import StoreVersion
from mctrace.errors import InputError
from mctrace.hub import Pushed, check_repo_name, push_files
from mctrace.progress import Progress
from mctrace.sharing.lensnet_card import lensnet_card
from mctrace.sharing.shared_folder import CARD, SharedFolder, check_whole, recognise
from mctrace.train.checkpoints.retention import BEST

GISTNET_CARD = "MODEL_CARD.md"


def push_folder(source: Path, repo: str, *, licence: str | None = None, private: bool = False) -> Pushed:
    """Upload an export, a LensNet checkpoint (or its run's folder, for the best) or a GistNet's folder.

    Raises InputError when `source` is none of them or is damaged, and for whatever the hub refuses.
    """
    source = source / BEST if (source / BEST).is_dir() else source
    shared = recognise(source)
    if shared is None:
        raise InputError(
            f"{source} is neither a store, nor an export, nor a checkpoint folder with config.json and "
            "model.safetensors"
        )
    check_whole(shared)
    with tempfile.TemporaryDirectory(prefix="mctrace-push-") as scratch:
        folder = Path(scratch)
        for name in shared.names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to((shared.folder / name).resolve())
        (folder / CARD).write_text(with_licence(_card(shared, repo), licence), encoding="utf-8")
        names = (*shared.names, CARD)
        return push_files(
            folder, names, repo, shared.repo_kind, message=f"{shared.kind}, by mctrace", private=private
        )


@runtime_checkable
class Pretrained(Protocol):
    """A network that writes its own folder: a `Scorer`, a trained GistNet."""

    def save_pretrained(self, folder: Path, /) -> None: ...


def push_to_hub(
    what: Pretrained | Path | str, repo: str, *, licence: str | None = None, private: bool = False
) -> Pushed:
    """Upload a network, or a folder as `push_folder` does, to the repository "organisation/name".

    `Scorer.from_pretrained(repo)` and `load_gistnet(repo)` load it again. A network in memory has no run
    beside it, so its card lacks the evaluation that a run's folder has. Raises as `push_folder`.
    """
    if not isinstance(what, Pretrained):
        return push_folder(Path(what), repo, licence=licence, private=private)
    with tempfile.TemporaryDirectory(prefix="mctrace-push-") as scratch:
        folder = Path(scratch) / repo.rpartition("/")[2]
        what.save_pretrained(folder)
        return push_folder(folder, repo, licence=licence, private=private)


def push_store(
    at: StoreVersion,
    repo: str,
    request: ExportRequest,
    progress: Progress,
    *,
    licence: str | None = None,
    private: bool = False,
) -> Pushed:
    """Export the labels of a store's version as Parquet and upload them.

    Raises InputError and StoreError as `export` does, and InputError for whatever the hub refuses.
    """
    check_repo_name(repo)  # before the export, which takes a while
    scratch = Path(tempfile.mkdtemp(prefix="mctrace-push-"))
    try:
        export(at, scratch / "labels", request, progress)
        return push_folder(scratch / "labels", repo, licence=licence, private=private)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def with_licence(card: str, licence: str | None) -> str:
    """The card with a licence in its front matter, in place of what stood there."""
    if licence is None:
        return card
    if "\n" in licence or not licence.strip():
        raise InputError("--license: give an identifier of the hub's list, e.g. apache-2.0 or cc-by-4.0")
    head, rest = card.removeprefix("---\n").split("---\n", 1)
    kept = [line for line in head.splitlines() if not line.startswith("license:")]
    return "\n".join(["---", f"license: {licence.strip()}", *kept, "---", ""]) + rest


def _card(shared: SharedFolder, repo: str) -> str:
    """The README of a repository; an export has its own, a GistNet what `gist evaluate --card` wrote."""
    if shared.kind == "labels":
        return (shared.folder / CARD).read_text(encoding="utf-8").replace('"FOLDER', f'"{repo}')
    if shared.kind == "LensNet":
        return lensnet_card(shared.folder, repo)
    front = "---\nlibrary_name: mctrace\ntags:\n- mctrace\n- gistnet\n---\n\n"
    loading = f'\n```python\nfrom mctrace import load_gistnet\n\ngistnet = load_gistnet("{repo}")\n```\n'
    written = shared.folder / GISTNET_CARD
    body = written.read_text(encoding="utf-8") if written.is_file() else f"# GistNet {shared.folder.name}\n"
    return front + body + loading

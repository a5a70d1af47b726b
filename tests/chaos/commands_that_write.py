"""Every command that writes: what it starts from, what must be there after a kill, and what it must leave."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from mctrace.errors import MctraceError
from mctrace.gists.network.loading import load_gistnet
from mctrace.train.checkpoints.lensnet_checkpoint import load_checkpoint
from tests.chaos.findings import Findings, SceneError, compare, opened, problems
from tests.chaos.fixture import Fixture
from tests.chaos.killable import run_command
from tests.cli.flags import set_flags

_STORE = "--store=store"
Prepare = Callable[[Fixture, Path], None]
Look = Callable[[Path], Findings]
Compare = Callable[[Path, Path], Findings]


@dataclass(frozen=True)
class CommandThatWrites:
    """A command line that runs in a folder of its own."""

    name: str
    arguments: tuple[str, ...]
    prepare: Prepare
    """makes what the command starts from"""
    look: Look
    """what is wrong after a kill"""
    compare: Compare
    """what is wrong when it has finished, against the folder of an undisturbed run"""
    instead: tuple[str, ...] = ()
    """what finishes a killed one, where that is not the same command"""
    afterwards: tuple[tuple[str, ...], ...] = ()
    """what has to succeed when it has finished, before the comparison"""
    codes: tuple[int, ...] = (0,)
    """exit codes of a command that has done its work"""

    @property
    def again(self) -> tuple[str, ...]:
        return self.instead or self.arguments


def commands_that_write(fixture: Fixture) -> list[CommandThatWrites]:
    collect = ("collect", _STORE, *fixture.flags(), "--no-ray")
    train = ("train", _STORE, "--out=run", *set_flags(_TRAINING))
    return [
        CommandThatWrites("collect", collect, _nothing, _look_at_store, _compare_stores),
        CommandThatWrites("compact", ("compact", _STORE), _copy_whole, _look_at_store, _compare_files),
        CommandThatWrites(
            "derive", ("derive", "levels", "--recipe=levels", _STORE), _copy_whole, _look_at_store,
            _compare_files,
        ),
        CommandThatWrites(
            "verify --sweep", ("verify", "--sweep", _STORE), _copy_with_leftovers, _look_at_store,
            _compare_swept,
        ),
        CommandThatWrites(
            "verify --withdraw", ("verify", "--withdraw", _STORE), _copy_damaged, _look_at_damaged,
            _compare_stores, afterwards=(collect,), codes=(0, 1),
        ),
        CommandThatWrites(
            "export", ("export", "out", "--overwrite", _STORE), _copy_with_export, _look_at_export,
            partial(_compare_folders, names=("out",)),
        ),
        CommandThatWrites(
            "train", train, _copy_whole, partial(_look_at_checkpoints, "run", _load_lensnet),
            _compare_training, instead=(*train, "--resume"),
        ),
        CommandThatWrites(
            "gist train", _train_gists(fixture, _GISTS), _copy_earlier_gists,
            partial(_look_at_checkpoints, "gists", _load_gistnet), _compare_gists,
        ),
    ]  # fmt: skip


_TRAINING = {
    "train.batch_size": 4, "train.eval_interval": 4, "train.save_interval": 3, "train.keep_last": 2,
    "train.network.d_lens": 16, "train.network.num_heads": 2, "train.network.dropout": 0.2,
    "train.optimiser.warmup_steps": 1, "train.optimiser.total_steps": 14,
}  # fmt: skip
_GISTS = {
    "gist_train.network.num_layers": 1, "gist_train.rarity.num_steps": 1,
    "gist_train.objective.window_tokens": 64, "gist_train.objective.protected_tail": 8,
    "gist_train.objective.scored_tokens": 16, "gist_train.objective.curriculum_steps": 2,
    "gist_train.optimiser.warmup_steps": 1, "gist_train.optimiser.total_steps": 4,
    "gist_train.num_validation_windows": 2, "gist_train.eval_interval": 2, "gist_train.keep_last": 1,
}  # fmt: skip


def _nothing(fixture: Fixture, folder: Path) -> None:
    """A collection makes its store itself."""


def _copy_whole(fixture: Fixture, folder: Path) -> None:
    shutil.copytree(fixture.whole().location.root, folder / "store")


def _copy_with_leftovers(fixture: Fixture, folder: Path) -> None:
    """What killed runs leave, two days old: folders of parts, scratch, files of commits and of heads."""
    _copy_whole(fixture, folder)
    store = folder / "store"
    for number in range(6):
        part = max(store.glob("parts/trajectory/*/*"))
        shutil.copytree(part, store / f"parts/trajectory/f{number}/f{number}left-{number}-columns2")
        (store / f"staging/tmp{number}").mkdir(parents=True)
        (store / f"staging/tmp{number}/effects.parquet").write_bytes(b"half")
        (store / f"ledger/rows-{number:064x}.parquet").write_bytes(b"half")
    _make_old(store)


def _make_old(store: Path) -> None:
    then = time.time() - 2 * 86400
    for path in store.rglob("*"):
        os.utime(path, (then, then))


def _copy_damaged(fixture: Fixture, folder: Path) -> None:
    """A byte altered in a trajectory, a document and the table of embeddings."""
    _copy_whole(fixture, folder)
    for pattern in _DAMAGED:
        path = min((folder / "store/parts").glob(pattern))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


_DAMAGED = ("trajectory/*/*/effects.parquet", "document/*/*/documents.parquet", "embeddings/*/*/*.parquet")


def _copy_with_export(fixture: Fixture, folder: Path) -> None:
    """An earlier export to overwrite: that of a place where nothing was killed, without one of its files."""
    _copy_whole(fixture, folder)
    (folder / "out").mkdir()
    (folder / "out/mctrace-export.json").write_text("{}")


def _copy_earlier_gists(fixture: Fixture, folder: Path) -> None:
    """An earlier and longer run to overwrite, trained once."""
    earlier = fixture.folder / "earlier-gists"
    if not earlier.exists():
        earlier.mkdir()
        settings = {**_GISTS, "gist_train.optimiser.total_steps": 6}
        ended = run_command(_train_gists(fixture, settings), earlier)
        if ended.code:
            raise SceneError(f"gist train failed:\n{(earlier / 'output.log').read_text()[-2000:]}")
    shutil.copytree(earlier / "gists", folder / "gists")


def _train_gists(fixture: Fixture, settings: Mapping[str, object]) -> tuple[str, ...]:
    flags = [*fixture.flags(), *set_flags(settings)]
    return ("gist", "train", _STORE, "--out=gists", "--overwrite", *flags)


def _look_at_store(folder: Path) -> Findings:
    """The newest version is whole. Where no marker is, no store is there yet."""
    if not (folder / "store/mctrace-store.json").exists():
        return Findings()
    return Findings(dangling=len(problems(opened(folder / "store"))))


def _look_at_damaged(folder: Path) -> Findings:
    """Nothing is wrong but what was damaged before, and what needs it until it is measured again."""
    strange = [
        one
        for one in problems(opened(folder / "store"))
        if not any(Path(one.place).match(f"parts/{pattern}") for pattern in _DAMAGED)
        and not (one.place == "tables" and "trajectories without their" in one.what)
    ]
    return Findings(dangling=len(strange))


def _look_at_export(folder: Path) -> Findings:
    """The earlier one, the new one or, between two renames, none; never half of one."""
    names = {path.name for path in (folder / "out").glob("*")}
    earlier, new = {"mctrace-export.json"}, {"mctrace-export.json", "README.md", "snapshots", "documents"}
    return Findings(dangling=names not in (set(), earlier, new))


def _look_at_checkpoints(run: str, load: Callable[[Path], object], folder: Path) -> Findings:
    """Every checkpoint that has its name is whole."""
    broken = 0
    for checkpoint in [*(folder / run).glob("step_*"), *(folder / run).glob("best")]:
        if any(checkpoint.iterdir()):
            try:
                load(checkpoint)
            except MctraceError:
                broken += 1
    return Findings(dangling=broken)


def _load_lensnet(folder: Path) -> object:
    return load_checkpoint(folder)


def _load_gistnet(folder: Path) -> object:
    return load_gistnet(str(folder))


def _compare_stores(folder: Path, expected: Path) -> Findings:
    return compare(opened(folder / "store"), opened(expected / "store"))


def _compare_files(folder: Path, expected: Path) -> Findings:
    """Besides: the same parts with the same content, each once."""
    found = _compare_stores(folder, expected)
    ours, theirs = _hashes_by_part(folder / "store"), _hashes_by_part(expected / "store")
    found.duplicated += sum(len(copies) - 1 for copies in ours.values())
    found.rows_differ += sum(ours[key] != theirs[key] for key in ours.keys() & theirs.keys())
    found.rows_differ += len(ours.keys() - theirs.keys())
    return found


def _hashes_by_part(store: Path) -> dict[str, list[dict[str, object]]]:
    """sha256 by file of each part's visible copies; of documents the rows without their folder's name."""
    found: dict[str, list[dict[str, object]]] = {}
    for part in (committed.part for committed in opened(store).at().parts):
        content: dict[str, object] = {file.path: file.sha256 for file in part.files}
        if part.kind == "document":
            table = pq.read_table(store / part.folder / "documents.parquet")
            content["documents.parquet"] = table.drop_columns(["arrays"]).to_pylist()
        found.setdefault(part.part_id, []).append(content)
    return found


def _compare_swept(folder: Path, expected: Path) -> Findings:
    """The same files but for notices, no leftovers among them."""
    # What a killed sweep has half removed has changed just now: the next one that finds it old takes it.
    _make_old(folder / "store")
    ended = run_command(("verify", "--sweep", _STORE), folder)
    ours, theirs = _files(folder / "store"), _files(expected / "store")
    ours, theirs = ({k: v for k, v in one.items() if not k.startswith("sweeps/")} for one in (ours, theirs))
    found = _compare_stores(folder, expected)
    found.unclear += ended.code != 0
    found.dangling += len(ours.keys() - theirs.keys())
    found.dangling += sum("left-" in name or "staging/" in name for name in ours.keys() & theirs.keys())
    found.lost += len(theirs.keys() - ours.keys())
    return found


def _compare_folders(folder: Path, expected: Path, names: tuple[str, ...]) -> Findings:
    """Bytes are the same, and nothing is beside what was there before."""
    found = Findings()
    for name in names:
        ours, theirs = _files(folder / name), _files(expected / name)
        found.lost += len(theirs.keys() - ours.keys())
        found.rows_differ += sum(ours[key] != theirs[key] for key in ours.keys() & theirs.keys())
        found.dangling += len(ours.keys() - theirs.keys())
    known = {*names, "store", "output.log"}
    found.dangling += sum(path.name not in known for path in folder.iterdir())
    return found


def _compare_training(folder: Path, expected: Path) -> Findings:
    """The same weights and optimiser state bit for bit, the same telemetry, nothing half-written."""
    found = _compare_checkpoints(folder / "run", expected / "run")
    found.rows_differ += _telemetry(folder / "run") != _telemetry(expected / "run")
    return found


def _compare_gists(folder: Path, expected: Path) -> Findings:
    return _compare_checkpoints(folder / "gists", expected / "gists")


def _compare_checkpoints(run: Path, expected: Path) -> Findings:
    ours, theirs = _files(run), _files(expected)
    ours, theirs = ({k: v for k, v in one.items() if "tensorboard" not in k} for one in (ours, theirs))
    weights = [key for key in ours.keys() & theirs.keys() if key.endswith(".safetensors")]
    return Findings(
        lost=len(theirs.keys() - ours.keys()) + (not weights),
        dangling=len(ours.keys() - theirs.keys()) + sum(path.name.startswith(".") for path in run.iterdir()),
        rows_differ=sum(ours[key] != theirs[key] for key in weights),
    )


def _telemetry(run: Path) -> list[dict[str, object]]:
    """Lines without timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("steps_per_s", "read_share")} for line in lines]


def _files(folder: Path) -> dict[str, str]:
    """sha256 of every file by its place."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

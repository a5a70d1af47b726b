"""One snapshot in a terminal, in a pipe and as JSON."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from mctrace.analysis.snapshots.scored_snapshot import ScoredSnapshot, read_scored_snapshot
from mctrace.cli.display.snapshot import print_snapshot
from mctrace.context.allocator import AllocatorConfig
from mctrace.datasets.store.store import Store
from mctrace.errors import InputError
from tests.analysis.synthetic import (
    BY_HAND,
    SCRIPT_TEXT,
    TOKENIZER_HASH,
    Measured,
    Trajectory,
    write_checkpoint,
    write_store,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("by-hand") / "store", BY_HAND)


def read(store: Store, name: str, checkpoints: Sequence[Path] = ()) -> ScoredSnapshot:
    return read_scored_snapshot(store.at(), name, checkpoints, AllocatorConfig())


def shown(snapshot: ScoredSnapshot, *, top: int = 5, all_actions: bool = False, **options) -> str:
    file = io.StringIO()
    console = Console(file=file, **{"width": 120, "soft_wrap": True, **options})
    print_snapshot(snapshot, console, top=top, all_actions=all_actions)
    return file.getvalue()


def test_a_snapshot_in_a_terminal(store: Store) -> None:
    said = shown(read(store, "trajectory-a"), force_terminal=True)
    lines = Text.from_ansi(said).plain.splitlines()
    text = "\n".join(lines)
    assert "train, policy recency" in text
    assert "snapshot trajectory-a:64" in text
    assert "8 of 12 legal actions measured" in text
    (levels,) = [line for line in lines if "level" in line and "█" in line]
    assert "░░░░▒▒▒▒████████" in levels
    assert "Edits that show more, worth most: 5 of 5 legal" in text
    assert "Edits that show less, cost least: 3 of 7 legal" in text
    assert "␀␛[3" in text
    assert "\x00" not in said  # nor does the corpus' own escape sequence reach the terminal


def test_a_pipe_gets_whole_lines_without_colours(store: Store) -> None:
    said = shown(read(store, "trajectory-a"), top=1)
    assert "\x1b" not in said
    assert "expand" in said
    assert "1:4" in said
    assert "+0.5000" in said
    assert (
        "<script>window.h" not in said.split("Edits that show more, worth most")[1]
    )  # the top one is another
    assert "Edits that show more, worth most: 1 of 5 legal" in said


def test_text_has_a_line_of_its_own_where_a_terminal_is_narrow(store: Store) -> None:
    said = shown(read(store, "trajectory-a"), top=1, width=90, force_terminal=True)
    lines = Text.from_ansi(said).plain.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("collapse ")]
    assert lines[place + 1] == "      acked=1</script>"
    assert max(map(len, lines[place - 1 : place + 1])) <= 90


def test_values_are_drawn_above_their_blocks(store: Store) -> None:
    lines = shown(read(store, "trajectory-a")).splitlines()
    helps = next(line for line in lines if line.startswith("value +"))[16:]
    hurts = next(line for line in lines if line.startswith("value −"))[16:]
    # Gist of gists 1/16, gists 1/2 1/4 1/4 −1/8, blocks 1/2 0, then not measured: heights by square root.
    assert helps.startswith("▃▃▃▃█▆▆ █")
    assert helps.rstrip().endswith("······")
    assert hurts[7] == "▅"


def test_all_actions_with_their_planned_edits(store: Store, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "net" / "best")
    said = shown(read(store, "trajectory-a:64", [checkpoint]), all_actions=True)
    assert "All 12 legal actions" in said
    assert "unknown" not in said  # a checkpoint scores what was not measured, too
    assert "net +" in said
    assert shown(read(store, "trajectory-a:64"), all_actions=True).count("unknown") == 4
    assert "ΔNLL" in said


def test_json_has_everything(store: Store, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "net" / "best")
    found = json.loads(json.dumps(read(store, "trajectory-a:64", [checkpoint]).to_json()))
    assert "".join(span["text"] for span in found["spans"]) == SCRIPT_TEXT.encode()[:64].decode()
    assert found["levels"] == [2] * 4 + [1] * 4 + [0] * 8
    assert len(found["actions"]) == 12
    first = found["actions"][1]
    assert (first["action"], first["node_level"], first["node_index"]) == ("expand", 1, 4)
    assert first["measured"]["delta_nll"] == -0.5
    assert set(first["scores"]) == {"net"}
    assert first["would"] in ("expand", "keep")
    assert found["actions"][-2]["measured"] is None


def test_mistakes_are_one_line_errors(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no snapshot 'nowhere'"):
        read(store, "nowhere")
    with pytest.raises(InputError, match="is not a LensNet checkpoint"):
        read(store, "trajectory-a", [tmp_path])
    other = write_checkpoint(tmp_path / "other", gist_hash="other")
    with pytest.raises(InputError, match="another GistNet"):
        read(store, "trajectory-a", [other])


def test_a_store_without_a_vocabulary_shows_numbers_and_the_remedy(tmp_path: Path) -> None:
    store = write_store(tmp_path / "older", BY_HAND, words=[])
    said = shown(read(store, "trajectory-a"))
    assert (
        f"no text: this version of the store does not say what the ids of tokenizer {TOKENIZER_HASH[:8]}"
        in said
    )
    assert "the next 'mctrace collect' with that model adds it" in said
    assert "8 of 12 legal actions measured" in said


def test_a_snapshot_without_measured_actions_is_shown(tmp_path: Path) -> None:
    failed = Trajectory("failed", "train", [Measured("expand", 1, 4, None)])
    store = write_store(tmp_path / "store", [failed])
    said = shown(read(store, "trajectory-failed"))
    assert "0 of 12 legal actions measured" in said

"""The JSONL file of a gist evaluation: one document a line, appended as soon as it is measured.

A later run takes the documents of its own conditions from there instead of measuring them again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mctrace.errors import InputError
from mctrace.gists.evaluation.loss_changes import (
    CopyTest,
    Diversity,
    GistSetting,
    HeldOutDocument,
    LossChange,
)

_Found = LossChange | Diversity


def append_document(file: Path, key: str, document: HeldOutDocument, found: Sequence[_Found]) -> None:
    """Append one document's results; `key` is the hash of the conditions."""
    changes = [_change_row(item) for item in found if isinstance(item, LossChange)]
    diversity = [
        {"variant": d.variant, "level": d.level, "neighbours": d.neighbours, "pairs": d.pairs}
        for d in found
        if isinstance(d, Diversity)
    ]
    row = {
        "key": key, "document_id": document.document_id, "corpus": document.corpus, "changes": changes,
        "diversity": diversity,
    }  # fmt: skip
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def read_documents_done(file: Path, key: str) -> dict[str, Mapping[str, Any]]:
    """Rows of these conditions by document id; empty where there is no file.

    A last line that was cut short is removed from the file, so that it is measured again. Raises InputError
    for any other line that is no row.
    """
    if not file.exists():
        return {}
    whole, newline, cut = file.read_bytes().rpartition(b"\n")
    if cut:
        file.write_bytes(whole + newline)
    rows = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["key"] == key:
                rows[row["document_id"]] = row
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{file}, line {number}, is no row of a gist evaluation: take the line out, and its document "
                "is measured again"
            ) from None
    return rows


def results_of(row: Mapping[str, Any], document: HeldOutDocument) -> Iterator[_Found]:
    """The results of a row, which are of `document`."""
    for change in row["changes"]:
        yield LossChange(
            document,
            GistSetting(**change["setting"]) if change["setting"] else None,
            change["variant"],
            {int(h): nll for h, nll in change["full_nll"].items()},
            {int(h): nll for h, nll in change["delta_nll"].items()},
            CopyTest(**change["copies"]) if change["copies"] else None,
        )
    for found in row["diversity"]:
        yield Diversity(document, **found)


def _change_row(item: LossChange) -> dict[str, Any]:
    return {
        "setting": asdict(item.setting) if item.setting else None,
        "variant": item.variant,
        "full_nll": item.full_nll,
        "delta_nll": item.delta_nll,
        "copies": asdict(item.copies) if item.copies else None,
    }

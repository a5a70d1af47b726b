"""From token ids back to text: the tokenizer of the run that measured them, found without touching a network.

A store keeps token ids and the tokenizer's hash, not the tokenizer. It is looked for where the run had it, in
the Hugging Face cache for a hub id, or in the folder that the user names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mctrace.analysis.shown_text import Decode
from mctrace.context.errors import MctraceError, ModelError
from mctrace.datasets.queries import connect, fetch_rows
from mctrace.datasets.store import StoreVersion

_FILE = "tokenizer.json"


@dataclass
class Decoders:
    """Opens decoders by the tokenizer's hash, each once; `folder` is the user's own, looked into first."""

    version: StoreVersion
    folder: Path | None = None
    _opened: dict[str, Decode] = field(default_factory=dict)

    def open(self, tokenizer_hash: str) -> Decode:
        """Raises ModelError when the tokenizer is nowhere or another one, ModuleNotFoundError without the
        libraries that read it."""
        if tokenizer_hash not in self._opened:
            self._opened[tokenizer_hash] = _open(self._find(tokenizer_hash))
        return self._opened[tokenizer_hash]

    def _find(self, tokenizer_hash: str) -> Path:
        tried = []
        for file, place in self._candidates(tokenizer_hash):
            if file is None or not file.is_file():
                tried.append(f"{place} has none")
            elif hashlib.sha256(file.read_bytes()).hexdigest() != tokenizer_hash:
                tried.append(f"{place} has another")
            else:
                return file
        raise ModelError(
            f"the tokenizer {tokenizer_hash[:8]} of these tokens is not on this machine "
            f"({'; '.join(tried) or 'no run names its model'}): give the model's folder with --tokenizer"
        )

    def _candidates(self, tokenizer_hash: str) -> list[tuple[Path | None, str]]:
        if self.folder is not None:
            file = self.folder if self.folder.is_file() else self.folder / _FILE
            return [(file, str(self.folder))]
        with connect(self.version) as connection:
            rows = fetch_rows(
                connection,
                "select model_name, model_revision from runs "
                "where tokenizer_hash = ? and model_name is not null "
                "group by all order by max(started_at) desc",
                tokenizer_hash,
            )
        return [
            (_kept_file(row["model_name"], row["model_revision"]), f"model {row['model_name']}")
            for row in rows
        ]


def _kept_file(name: str, revision: str | None) -> Path | None:
    """tokenizer.json of a model, if it is on this machine."""
    from mctrace.collect.model_source import SMOLLM2_ALIAS, resolve_model

    if name == SMOLLM2_ALIAS or Path(name).expanduser().is_dir():
        try:
            return resolve_model(name, revision).folder / _FILE
        except MctraceError:
            return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, _FILE, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _open(file: Path) -> Decode:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise ModelError(f"{file} is not a usable tokenizer: {error}") from error

    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    return decode

"""Documents of the step `gists`: read and split where the kit is built, carried as token ids, read there.

One file of numpy's, each document under `SPLIT/CORPUS/ID`, in the narrowest integers that hold its tokens.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FILE = "corpus.npz"
_SETTINGS = "settings"
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class KitDocument:
    """Token ids [T] of a document with its split, the corpus it is from, and its id."""

    split: str
    corpus: str
    document_id: str
    tokens_T: IntArray


@dataclass(frozen=True)
class KitCorpus:
    """Documents in order, and the section `corpus` of the configuration that they were read by."""

    documents: tuple[KitDocument, ...]
    settings: Mapping[str, Any]

    def of(self, split: str) -> Iterator[KitDocument]:
        return (document for document in self.documents if document.split == split)

    def write(self, folder: Path) -> None:
        arrays = {
            f"{one.split}/{one.corpus}/{one.document_id}": one.tokens_T.astype(
                np.min_scalar_type(int(one.tokens_T.max()))
            )
            for one in self.documents
        }
        np.savez_compressed(folder / FILE, **{_SETTINGS: np.array(json.dumps(self.settings)), **arrays})

    @classmethod
    def read(cls, folder: Path) -> "KitCorpus":
        with np.load(folder / FILE, allow_pickle=False) as file:
            names = [name for name in file.files if name != _SETTINGS]
            documents = (KitDocument(*name.split("/"), file[name].astype(np.int32)) for name in names)
            return cls(tuple(documents), json.loads(str(file[_SETTINGS])))

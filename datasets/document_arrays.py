"""The arrays behind snapshots: each document's tokens and gists, and the base model's embedding table.

A document's arrays are read once and kept while they are among the latest; only the rows that a context
shows are ever turned into embeddings.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.errors import InputError
from mctrace.context.tree import TreeShape
from mctrace.datasets.arrays import open_arrays, read_array
from mctrace.datasets.contexts import IntArray
from mctrace.datasets.location import Location
from mctrace.datasets.queries import connect, fetch_rows
from mctrace.datasets.store import StoreVersion


@dataclass(frozen=True)
class Provenance:
    """What all labels of a training run must share."""

    model_hash: str
    tokenizer_hash: str
    gist_hash: str
    dtype: str
    block_size: int
    max_level: int

    @property
    def tree(self) -> TreeShape:
        return TreeShape(self.block_size, self.max_level)


@dataclass(frozen=True)
class StoredDocument:
    """One document of a store, as `contexts.NodeEmbeddings`."""

    table_Vd: Tensor
    tokens: npt.NDArray[Any]
    gists: tuple[Tensor, ...]
    """level 1 first"""

    def rows(self, level: int, index: IntArray) -> Tensor:
        if level:
            return self.gists[level - 1][torch.from_numpy(index)]
        return self.table_Vd[torch.from_numpy(self.tokens[index].astype(np.int64))]


@dataclass(frozen=True)
class DocumentArrays:
    """Every document of one version and provenance."""

    version: StoreVersion
    provenance: Provenance

    @cached_property
    def embedding_table(self) -> Tensor:
        """The base model's input embeddings [V, d], float32."""
        rows = fetch_rows(
            connect(self.version),
            "select arrays from stored_embeddings where (model_hash, dtype) = (?, ?)",
            self.provenance.model_hash,
            self.provenance.dtype,
        )
        if not rows:
            raise InputError(
                f"{self._location.uri} lacks the embedding table of model {self.provenance.model_hash[:8]}"
            )
        return torch.from_numpy(read_array(open_arrays(self._location, rows[0]["arrays"]), "embedding_table"))

    @property
    def embedding_dim(self) -> int:
        return int(self.embedding_table.shape[1])

    def document(self, document_id: str) -> StoredDocument:
        """One document's tokens and gists. Raises StoreError when they cannot be read."""
        num_levels = self.provenance.max_level + 1
        tokens, *gists = _read_document(self._location, self._folders[document_id], num_levels)
        return StoredDocument(self.embedding_table, tokens, tuple(map(torch.from_numpy, gists)))

    @property
    def _location(self) -> Location:
        return self.version.location

    @cached_property
    def _folders(self) -> dict[str, str]:
        rows = fetch_rows(
            connect(self.version),
            "select document_id, arrays from stored_documents "
            "where (model_hash, gist_hash, dtype, block_size, max_level) = (?, ?, ?, ?, ?)",
            self.provenance.model_hash,
            self.provenance.gist_hash,
            self.provenance.dtype,
            self.provenance.block_size,
            self.provenance.max_level,
        )
        return {row["document_id"]: row["arrays"] for row in rows}


@lru_cache(maxsize=1024)
def _read_document(location: Location, folder: str, num_levels: int) -> list[npt.NDArray[Any]]:
    """A document's tokens and its gists per level; the most recent documents stay in memory."""
    group = open_arrays(location, folder)
    names = ["tokens", *(f"gists/lod{level}" for level in range(1, num_levels))]
    return [read_array(group, name) for name in names]

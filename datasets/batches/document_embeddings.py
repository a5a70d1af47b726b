"""Embeddings of stored documents: their tokens and gists, and the base model's embedding table.

A document's arrays are cached (least recently used go first); only rows that a context shows become
embeddings.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mctrace.context.lod_map import LODMap
from mctrace.datasets.batches.context_tensors import Context, IntArray
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.provenance import Provenance
from mctrace.datasets.store.store import StoreVersion
from mctrace.datasets.store.zarr_arrays import (
    ArrayFolder,
    DocumentPlace,
    open_arrays,
    read_array,
    read_document,
)
from mctrace.errors import InputError


@dataclass(frozen=True)
class DocumentNodes:
    """Embeddings of one stored document, a `context_tensors.NodeEmbeddings`."""

    table_Vd: Tensor
    tokens: npt.NDArray[Any]
    gists: tuple[Tensor, ...]
    """level 1 first"""

    def rows(self, level: int, index: IntArray) -> Tensor:
        if level:
            return self.gists[level - 1][torch.from_numpy(index)]
        return self.table_Vd[torch.from_numpy(self.tokens[index].astype(np.int64))]

    def context(self, lod_map: LODMap, protected_tail: int) -> Context:
        """A working context of the document, with its token ids."""
        return Context(lod_map, self, protected_tail, self.tokens)


@dataclass(frozen=True)
class DocumentEmbeddings:
    """Embeddings of every document of a version, for each provenance that is read."""

    version: StoreVersion
    kinds: tuple[Provenance, ...]
    """one, unless a mixture was requested"""

    @property
    def provenance(self) -> Provenance:
        """The provenance, or one that names all of a mixture."""
        return Provenance.of_all(self.kinds)

    @cached_property
    def embedding_tables(self) -> dict[tuple[str, str], Tensor]:
        """Input embeddings [V, d] of the base models, float32, by model hash and dtype.

        Raises InputError when one is missing or their widths differ.
        """
        rows = fetch_rows(connect(self.version), "from stored_embeddings")
        folders = {(row["model_hash"], row["dtype"]): row["arrays"] for row in rows}
        tables: dict[tuple[str, str], Tensor] = {}
        for key in {(kind.model_hash, kind.dtype) for kind in self.kinds}:
            if key not in folders:
                raise InputError(
                    f"{self.version.location.uri} lacks the embedding table of model {key[0][:8]}"
                )
            table = read_array(open_arrays(ArrayFolder.of(self.version, folders[key])), "embedding_table")
            tables[key] = torch.from_numpy(table)
        widths = sorted({table.shape[1] for table in tables.values()})
        if len(widths) > 1:
            raise InputError(
                f"the base models' embeddings have different widths ({', '.join(map(str, widths))}): "
                "no LensNet reads both, train on one model"
            )
        return tables

    @property
    def embedding_dim(self) -> int:
        return int(next(iter(self.embedding_tables.values())).shape[1])

    def document(self, document_id: str, provenance: Provenance) -> DocumentNodes:
        """Tokens and gists of one document. Raises StoreError when they cannot be read."""
        place = self._places[document_id, provenance]
        tokens, *gists = _read_document(ArrayFolder.of(self.version, place.folder), place)
        table_Vd = self.embedding_tables[provenance.model_hash, provenance.dtype]
        return DocumentNodes(table_Vd, tokens, tuple(map(torch.from_numpy, gists)))

    @cached_property
    def _places(self) -> dict[tuple[str, Provenance], DocumentPlace]:
        rows = fetch_rows(connect(self.version), "from stored_documents")
        return {(row["document_id"], Provenance.of(row)): DocumentPlace.of(row) for row in rows}


@lru_cache(maxsize=1024)
def _read_document(arrays: ArrayFolder, place: DocumentPlace) -> list[npt.NDArray[Any]]:
    """Tokens of a document and its gists per level, from a cache of recently read documents."""
    return read_document(arrays, place, *range(len(place.num_rows)))

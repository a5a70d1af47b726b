"""What a base model can take: positions and token ids, checked before anything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.corpus.documents import Document
from mctrace.collect.planning.work_units import WorkUnit
from mctrace.context.trajectory import Trajectory
from mctrace.errors import ModelError


@dataclass(frozen=True)
class ModelLimits:
    """Positions and token ids of a base model."""

    name: str
    max_positions: int
    vocabulary_size: int

    @classmethod
    def of(cls, source: ModelSource) -> "ModelLimits":
        return cls(source.name, source.max_positions, source.vocabulary_size)

    def refuse_unfit(self, document: Document, units: Sequence[WorkUnit]) -> None:
        """Raises ModelError when the base model cannot take a document's contexts or tokens."""
        if not units:
            return
        if (largest := document.tokens.max()) >= self.vocabulary_size:
            raise ModelError(
                f"{document.source} has token id {largest}, the base model {self.name!r} has "
                f"{self.vocabulary_size}"
            )
        widest = max((unit.trajectory for unit in units), key=lambda one: one.num_positions)
        if widest.num_positions > self.max_positions:
            raise self._too_wide(document.source, widest)

    def _too_wide(self, text: str, widest: Trajectory) -> ModelError:
        """Error for a trajectory of the document `text` that a base model has too few positions for."""
        block = widest.head.tree.block_size
        window = (self.max_positions - (widest.end - widest.first_cursor)) // block * block
        remedy = (
            f"set collect.window (collect.lod0_window for the policy lod0) to {window} at most"
            if window >= block
            else "set a smaller collect.horizon or fewer collect.cursors_per_trajectory"
        )
        return ModelError(
            f"a context of {text} spans {widest.num_positions} positions, the base model {self.name!r} has "
            f"{self.max_positions}: {remedy}"
        )

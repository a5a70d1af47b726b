"""Documents of the proof: tokens, and the answers that are asked for in them, if any."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.analysis.closed_loop.answers import Question

SEEN = "seen wording"
"""group of the recall documents whose wordings were trained on"""
_MOST_SHORT = 6_000
"""tokens of a document whose contexts reach back 4,096; those of longer ones reach back 8,192"""


@dataclass(frozen=True)
class QuestionDocument:
    """A document of one family; `group` is its task, wording or genre. No questions: ordinary text."""

    name: str
    family: str
    group: str
    tokens: npt.NDArray[np.int32]
    questions: tuple[Question, ...] = ()

    @property
    def is_long(self) -> bool:
        """Whether contexts reach back 8,192 tokens."""
        return len(self.tokens) > _MOST_SHORT

    @property
    def is_primary(self) -> bool:
        """Whether the protocol's primary comparisons rest on it."""
        return not self.is_long and self.group != SEEN

    @property
    def document_id(self) -> str:
        """sha256 of the tokens and of what is asked."""
        digest = hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<i4").tobytes())
        digest.update(repr(self.questions).encode())
        return digest.hexdigest()

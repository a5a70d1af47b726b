"""Documents of the proof: tokens, and the answers that are asked for in them, if any."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mctrace.analysis.closed_loop.answers import Question


@dataclass(frozen=True)
class QuestionDocument:
    """A document of one family; `group` is its task, wording or genre. No questions: ordinary text."""

    name: str
    family: str
    group: str
    tokens: npt.NDArray[np.int32]
    questions: tuple[Question, ...] = ()

    @property
    def document_id(self) -> str:
        """sha256 of the tokens and of what is asked."""
        digest = hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<i4").tobytes())
        digest.update(repr(self.questions).encode())
        return digest.hexdigest()

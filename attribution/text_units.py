"""Units of a text: the spans of whole tokens whose worth is asked for.

A sentence, line or paragraph is found in the characters; a token belongs to the one in which its last
character lies, so that " The" opens the sentence whose first word it is. The texts of the units join to the
whole text.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mctrace.errors import ModelError

IntArray = npt.NDArray[np.int64]

_LINE_END = re.compile(r"\n(?:[^\S\n]*\n)*")
_PARAGRAPH_END = re.compile(r"\n(?:[^\S\n]*\n)+")
_SENTENCE_END = re.compile(
    r"""
    (?P<mark>[.!?…]+) ["'”’»)\]]* \s+    # a mark before a space
    | [。！？।؟]+ ["'”’」』）]* \s*        # scripts that write no space, or have marks of their own
    | \n (?:[^\S\n]*\n)+                 # the end of a paragraph: headings have no mark
    """,
    re.VERBOSE,
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-ZÀ-ÖØ-Þ]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|cf|Fig|No|e\.g|i\.e|z\.B|d\.h|bzw)$"
)


@dataclass(frozen=True)
class TokenisedText:
    """Token ids of a text [n], and for each the character at which it ends, in ascending order."""

    text: str
    tokens: IntArray
    ends: IntArray

    def text_between(self, first: int, end: int) -> str:
        """Text of the tokens [first, end); a character of several tokens belongs to the last of them."""
        bounds = [0, *self.ends[:-1].tolist(), len(self.text)]
        return self.text[bounds[first] : bounds[end]]


def tokenise(tokenizer: Any, text: str) -> TokenisedText:
    """The whole text's tokens, none added. Raises ModelError for a tokenizer without places in the text."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "the model's tokenizer cannot say which characters a token stands for (no tokenizer.json)"
        )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = np.asarray(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    # Characters that the tokenizer skips, and tokens that it makes of nothing, go with the token before.
    ends = np.maximum.accumulate(places[:, 1]) if len(places) else places[:, 1]
    return TokenisedText(text, np.asarray(found["input_ids"], dtype=np.int64), ends)


def leading_tokens(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer itself writes before a text (a beginning-of-sequence token), often none."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    first = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return [int(token) for token in whole[:first]]


def unit_ends(document: TokenisedText, kind: str, block_size: int, num_leading: int = 0) -> list[int]:
    """Token at which each unit of the text ends, the last one at its end.

    Blocks are those of the context, which `num_leading` other tokens begin.
    """
    num_tokens = len(document.tokens)
    if kind == "token":
        return list(range(1, num_tokens + 1))
    if kind == "block":
        return [*range(block_size - num_leading, num_tokens, block_size), num_tokens]
    ends = np.array(sorted({*_CHARACTER_ENDS[kind](document.text), len(document.text)}))
    unit_of_token = np.searchsorted(ends, np.maximum(document.ends - 1, 0), side="right")
    changes = np.flatnonzero(np.diff(unit_of_token)) + 1
    return [*changes.tolist(), num_tokens]


def _sentence_ends(text: str) -> Iterator[int]:
    for match in _SENTENCE_END.finditer(text):
        goes_on = match.group("mark") == "." and "\n\n" not in match.group() and (
            text[match.end() : match.end() + 1].islower()
            or _ABBREVIATION.search(text, max(0, match.start() - 8), match.start())
        )  # fmt: skip
        if not goes_on:
            yield match.end()


_CHARACTER_ENDS: dict[str, Callable[[str], Iterator[int]]] = {
    "sentence": _sentence_ends,
    "line": lambda text: (match.end() for match in _LINE_END.finditer(text)),
    "paragraph": lambda text: (match.end() for match in _PARAGRAPH_END.finditer(text)),
}

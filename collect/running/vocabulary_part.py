"""Vocabulary part: the text of every token id, stored so that SQL can read tokens without the base model.

Most ids have a text. Byte-level tokenizers also have ids for parts of characters: those have bytes, and only
together a text.
"""

import re

from mctrace.base_model.model_source import ModelSource
from mctrace.collect.planning.part_ids import vocabulary_part_id
from mctrace.datasets.store.location import Location
from mctrace.datasets.store.parts import Part, write_part

_CUT_CHARACTER = "\ufffd"
_FALLBACK_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""how sentencepiece names the byte of a character that it has no piece for"""


def write_vocabulary(location: Location, source: ModelSource, run_id: str) -> Part:
    """The tokenizer's vocabulary as a part; commits nothing."""
    tokenizer, tokenizer_hash = source.load_tokenizer(), source.tokenizer_hash
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    words: list[dict[str, object]] = []
    parts: list[dict[str, object]] = []
    for token_id, (piece, text) in enumerate(zip(pieces, texts, strict=True)):
        key = {"tokenizer_hash": tokenizer_hash, "token_id": token_id}
        # Sentencepiece decodes a token at the start of a text without all of its spaces.
        spaces = len(piece) - len(piece.lstrip("\u2581"))
        words.append({**key, "text": " " * spaces + text.lstrip(" ") if spaces else text})
        if (content := cut_bytes(piece, text)) is not None:
            parts.append({**key, "bytes": content})
    return write_part(
        location,
        part_id=vocabulary_part_id(tokenizer_hash),
        kind="vocabulary",
        run_id=run_id,
        tables={"vocabulary": words, "token_bytes": parts},
    )


def cut_bytes(piece: str, text: str) -> bytes | None:
    """The UTF-8 that a token stands for where its text shows that a character is cut; None where that text is
    all there is to it, or where the tokenizer does not name its bytes.
    """
    if _CUT_CHARACTER not in text:
        return None
    if named := _FALLBACK_BYTE.fullmatch(piece):
        return bytes.fromhex(named[1])
    if all(letter in _BYTE_OF_LETTER for letter in piece):
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece)
    return None


def _byte_of_letter() -> dict[str, int]:
    """Byte-to-character table of byte-level tokenizers since GPT-2: those that print as they are, the others
    in order from U+0100.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_of_letter()

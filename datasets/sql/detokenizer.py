"""Text of token ids, from the vocabulary that the store holds."""

import codecs
from collections.abc import Mapping, Sequence

import duckdb

from mctrace.datasets.sql.connection import error_text
from mctrace.errors import StoreError

_UNKNOWN = "\ufffd".encode()


class Detokenizer:
    """Decoder of token ids over a connection to a version; reads each tokenizer's vocabulary once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._bytes: dict[str, Mapping[int, bytes]] = {}

    def text(self, tokenizer_hash: str, tokens: Sequence[int]) -> str:
        """Text of `tokens`; a character that is cut at an end becomes U+FFFD.

        Raises StoreError when the version does not hold the vocabulary.
        """
        (text,) = self.spans(tokenizer_hash, tokens, [len(tokens)])
        return text

    def spans(self, tokenizer_hash: str, tokens: Sequence[int], ends: Sequence[int]) -> list[str]:
        """Text of each span of `tokens`; `ends` are where the spans end, in order.

        A character whose bytes lie in two spans belongs to the second, so that the spans join to the whole
        text.
        """
        known = self._vocabulary(tokenizer_hash)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts, first = [], 0
        for end in ends:
            content = b"".join(known.get(token, _UNKNOWN) for token in tokens[first:end])
            texts.append(decoder.decode(content, final=end == ends[-1]))
            first = end
        return texts

    def _vocabulary(self, tokenizer_hash: str) -> Mapping[int, bytes]:
        if tokenizer_hash not in self._bytes:
            query = "select token_id, bytes from vocabulary where tokenizer_hash = $1"
            try:
                found = self._connection.execute(query, [tokenizer_hash]).fetchall()
            except duckdb.Error as error:
                raise StoreError(error_text(error)) from error
            if not found:
                raise StoreError(
                    "this version of the store does not say what the ids of tokenizer "
                    f"{tokenizer_hash[:8]} read as, which mctrace did not always keep: the next 'mctrace "
                    "collect' with that model adds it"
                )
            self._bytes[tokenizer_hash] = {int(token_id): content for token_id, content in found}
        return self._bytes[tokenizer_hash]

"""One call: what every part of a text is worth for what follows it, measured with the base model.

A part is left out, or a block replaced by its gist, and what follows runs again on the keys and values before
it: the counterfactual evaluator of `collect/measuring`, on one trajectory whose tail is the text itself.
Positions stay, so nothing moves; the context's first token stays as well, because all later ones attend to it
and its loss would hide what its part says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mctrace.attribution.attribution import Attribution
from mctrace.attribution.estimators import ESTIMATORS
from mctrace.attribution.question import check_question
from mctrace.attribution.result import Token, Unit
from mctrace.attribution.text_model import TextModel
from mctrace.attribution.text_units import TokenisedText, leading_tokens, tokenise, unit_ends
from mctrace.base_model.document_tree import DocumentTree
from mctrace.collect.corpus.tokenising import encode_pieces
from mctrace.collect.planning.edits import Edit, span_drop_edit, span_gist_edit
from mctrace.context.lod_map import LODMap
from mctrace.context.trajectory import Trajectory
from mctrace.context.tree import Node, TreeShape
from mctrace.errors import InputError, ModelError
from mctrace.gists.network.gistnet import build_tree
from mctrace.gists.network.loading import load_gistnet, place_gistnet
from mctrace.progress import Progress, Silent

_NO_GIST = "an incomplete block has no gist"
_STAYS = "a context's first token stays"
_NOTHING_FOLLOWS = "nothing follows"


@dataclass(frozen=True)
class _Context:
    """The text and its continuation as one trajectory; `leading` ids stand before them."""

    leading: tuple[int, ...]
    text: TokenisedText
    target: TokenisedText | None
    shape: TreeShape
    ends: tuple[int, ...]
    """of the units, in tokens of the text"""

    @property
    def tokens_T(self) -> torch.Tensor:
        parts = [np.array(self.leading, dtype=np.int64), self.text.tokens]
        return torch.from_numpy(np.concatenate([*parts, *([self.target.tokens] if self.target else [])]))

    @property
    def num_kept(self) -> int:
        """Tokens at the beginning that no edit touches."""
        return max(1, len(self.leading))

    @property
    def text_end(self) -> int:
        return len(self.leading) + len(self.text.tokens)

    @property
    def first_read(self) -> int:
        """The first token whose loss counts."""
        return self.text_end if self.target else self.num_kept

    def trajectory(self) -> Trajectory:
        """Cursors at the first token whose loss counts and after the last part that something follows."""
        last = self.first_read
        if not self.target and len(self.ends) > 1:
            last = max(last, len(self.leading) + self.ends[-2])
        num_tokens = self.text_end + (len(self.target.tokens) if self.target else 0)
        head = LODMap.of_tokens(self.shape, 0, self.first_read)
        return Trajectory(head, tuple(sorted({self.first_read, last})), num_tokens - last)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Each unit's tokens [first, end) in the context."""
        first = 0
        for end in self.ends:
            yield len(self.leading) + first, len(self.leading) + end
            first = end


def attribute(
    text: str,
    *,
    model: str | TextModel = "smollm2-135m",
    unit: str | None = None,
    against: str = "drop",
    target: str | None = None,
    estimator: str = "exact",
    gists: str = "mean",
    block_size: int = 32,
    progress: Progress | None = None,
) -> Attribution:
    """What every part of `text` is worth for what follows it, or for the continuation `target`, in nats.

    `unit` is block, sentence, line, token or paragraph (None: sentence, or block against gists). `against`
    drop leaves a part out; gist puts the gist of the GistNet `gists` in the place of a block of `block_size`
    tokens. `estimator` gradient estimates all parts at once, to first order, for a few passes over the text
    whatever their number. `model` is a name or a `TextModel`, which is loaded once for many calls. The target
    is tokenised apart from the text.

    Raises InputError, ConfigError or ModelError when the question or the model cannot be used.
    """
    kind = check_question(text, target, unit, against, estimator)
    shape = TreeShape(block_size, 1)
    loaded = TextModel.load(model) if isinstance(model, str) else model
    context = _context(loaded, text, target, kind, shape)
    trajectory = context.trajectory()
    edits, reasons = _edits(context, trajectory, against)
    if not edits:
        raise InputError(_why_nothing(context, kind, reasons))
    document = _document(loaded, context, gists if against == "gist" else None)
    shown = progress or Silent()
    try:
        losses = ESTIMATORS[estimator](loaded.model, document, trajectory, list(edits.values()), shown)
    finally:
        shown.stop()
    if not torch.isfinite(losses.nll_H).all():
        raise ModelError(
            f"the loss of the model {loaded.name!r} on this text is not finite: try another dtype"
        )
    deltas = dict(zip(edits, (delta_H.double().cpu().numpy() for delta_H in losses.deltas), strict=True))
    offset = len(context.leading)
    units = [
        Unit(
            index, context.text.text_between(first - offset, end - offset), first - offset, end - offset,
            max(context.first_read, end) - offset, deltas.get(index), reasons.get(index, ""),
            losses.is_by_token,
        )
        for index, (first, end) in enumerate(context.spans())
    ]  # fmt: skip
    return Attribution(
        text, target, tuple(_tokens(context, losses.nll_H.tolist())), tuple(units), kind, against, estimator,
        loaded.name, gists if against == "gist" else None,
    )  # fmt: skip


def _context(loaded: TextModel, text: str, target: str | None, kind: str, shape: TreeShape) -> _Context:
    """Tokens and units. Raises InputError for a text that spans more positions than the model has."""
    leading = leading_tokens(loaded.tokenizer)
    most = loaded.model.max_positions
    room = most - len(leading)
    texts = [text] if target is None else [text, target]
    # A text far too long is not tokenised to its end.
    num_tokens = sum(len(encode_pieces(loaded.tokenizer, [one], room + 1)) for one in texts)
    if num_tokens > room:
        raise InputError(
            f"the text{' with its target' if target else ''} has more tokens than the {most:,} positions of "
            f"the model {loaded.name!r}: give a shorter part of it, or a model with more positions"
        )
    document = tokenise(loaded.tokenizer, text)
    if not len(document.tokens):
        raise InputError(f"the text has no token of the model {loaded.name!r}")
    continuation = None if target is None else tokenise(loaded.tokenizer, target)
    if continuation is not None and not len(continuation.tokens):
        raise InputError(f"the target has no token of the model {loaded.name!r}")
    ends = unit_ends(document, kind, shape.block_size, len(leading))
    return _Context(tuple(leading), document, continuation, shape, tuple(ends))


def _edits(context: _Context, trajectory: Trajectory, against: str) -> tuple[dict[int, Edit], dict[int, str]]:
    """By the unit's index its edit, or why there is none."""
    edits: dict[int, Edit] = {}
    reasons: dict[int, str] = {}
    size = context.shape.block_size
    for index, (first, end) in enumerate(context.spans()):
        begin = max(first, context.num_kept)
        if end == trajectory.end:
            reasons[index] = _NOTHING_FOLLOWS
        elif begin >= end:
            reasons[index] = _STAYS
        elif against == "drop":
            edits[index] = span_drop_edit(trajectory, begin, end)
        elif end % size:
            reasons[index] = _NO_GIST
        else:
            edits[index] = span_gist_edit(trajectory, begin, Node(1, end // size - 1))
    return edits, reasons


def _why_nothing(context: _Context, kind: str, reasons: dict[int, str]) -> str:
    if _NO_GIST in reasons.values():
        return f"the text has no complete block of {context.shape.block_size} tokens before what follows it"
    if context.target:
        return "the text is a single token, which stays: give a longer text"
    return f"the text is a single {kind}, and nothing follows it: choose a smaller unit, or give a target"


def _document(loaded: TextModel, context: _Context, gists: str | None) -> DocumentTree:
    tokens_T = context.tokens_T
    embeddings_Td = loaded.model.embed(tokens_T)
    if gists is None:
        return DocumentTree(tokens_T, [embeddings_Td])
    gistnet = load_gistnet(gists)
    place_gistnet(gistnet, loaded.model, context.shape.block_size)
    return DocumentTree(tokens_T, build_tree(gistnet, embeddings_Td, context.shape))


def _tokens(context: _Context, nll: Sequence[float]) -> Iterator[Token]:
    place = len(context.leading)
    for part in (context.text, context.target):
        for i in range(len(part.tokens) if part else 0):
            assert part is not None
            known = place >= context.first_read
            yield Token(part.text_between(i, i + 1), nll[place - context.first_read] if known else None)
            place += 1

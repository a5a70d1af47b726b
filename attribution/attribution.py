"""The answer of `attribute`, which can show itself: as a page of its own, and in a notebook."""

from pathlib import Path

from mctrace.attribution.page import framed, render_attribution, write_page
from mctrace.attribution.result import AttributionResult


class Attribution(AttributionResult):
    """What every part of a text is worth; in a notebook it shows its page."""

    def html(self) -> str:
        """One self-contained page: the text coloured by value."""
        return render_attribution(self)

    def write_html(self, out: str | Path) -> None:
        """Write the page to `out`, atomically. Raises InputError where that cannot be."""
        write_page(Path(out), self.html())

    def _repr_html_(self) -> str:
        return framed(self.html())

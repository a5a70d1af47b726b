"""Keys of `--json` by command, as docs/command-line.md names them."""

import re
from pathlib import Path

DOCUMENTED = {
    command: set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", keys)))
    for command, keys in re.findall(
        r"^\| `([^`]+)` \| (.*) \|$",
        (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}

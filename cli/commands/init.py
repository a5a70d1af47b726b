"""`mctrace init`: a pipeline.toml and the store it names."""

from pathlib import Path

from mctrace.cli.configuration import DEFAULT_FILE, load_config
from mctrace.cli.shared_options import Assignments, Config, StoreUri, console
from mctrace.cli.template import TEMPLATE
from mctrace.errors import ConfigError, MctraceError


def init(config: Config = None, store: StoreUri = None, set_: Assignments = None) -> None:
    """Write a commented pipeline.toml and create its store."""
    from mctrace.datasets.store.store import create_store

    file = config or Path(DEFAULT_FILE)
    is_new = not file.exists()
    if not is_new:
        console.print(f"{file} is there already and stays as it is", highlight=False)
    else:
        try:
            file.write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from error
    try:
        settings = load_config(file, set_ or [], {"store.uri": store})
        create_store(settings.store.uri)
    except MctraceError:
        if is_new:
            file.unlink(missing_ok=True)
        raise
    if is_new:
        console.print(f"wrote {file}", highlight=False)
    console.print(f"the store {settings.store.uri} is ready: next, 'mctrace collect'", highlight=False)

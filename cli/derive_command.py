"""`mctrace derive`: a recipe in SQL over a version, kept as a dataset of the store."""

from collections.abc import Sequence

from rich.console import Console

from mctrace.cli.config import PipelineConfig
from mctrace.cli.variables import parse_variables
from mctrace.datasets.derived.derive import Derivation, derive
from mctrace.datasets.derived.recipe import find_recipe
from mctrace.datasets.sql.connection import connect, fetch_rows
from mctrace.datasets.store.store import open_store


def derive_dataset(
    config: PipelineConfig,
    version: int | None,
    dataset: str | None,
    name: str,
    recipe: str,
    seed: int,
    variables: Sequence[str],
    console: Console,
) -> None:
    """Derives, and says what is in it."""
    derivation = Derivation(find_recipe(recipe), seed, parse_variables(variables))
    store = open_store(config.store.uri)
    before = store.ledger.version()
    part = derive(store, store.at(version).read_through(dataset), name, derivation)
    now = store.at().read_through(name)
    state = "is there already" if store.ledger.version() == before else f"made version {now.version}"
    (row,) = fetch_rows(connect(now), _SUMMARY, name)
    console.print(
        f"dataset {name} {state}: {row['num_rows']} {row['kind']}, {part.size / 1e6:.1f} MB, derived from "
        f"version {row['parent_version']} by {row['recipe_name']} with seed {row['seed']}\n"
        f"next: mctrace train --dataset {name}, or mctrace sql --dataset {name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


_SUMMARY = "from datasets where name = ?"

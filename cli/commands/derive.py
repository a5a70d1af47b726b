"""`mctrace derive`: a dataset made from a version with a recipe in SQL."""

from typing import Annotated

import typer

from mctrace.cli.shared_options import (
    AsJson,
    Assignments,
    Config,
    Dataset,
    StoreUri,
    Variables,
    Version,
    configure,
    console,
)

_IN_JSON = ("kind", "num_rows", "recipe_name", "recipe_hash", "seed", "parent_version", "parent_dataset")


def derive(
    name: Annotated[str, typer.Argument(help="name of the new dataset, as --dataset takes it")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="a shipped recipe, recipes/NAME.sql, or a .sql file")
    ],
    config: Config = None,
    store: StoreUri = None,
    set_: Assignments = None,
    version: Version = None,
    dataset: Dataset = None,
    seed: Annotated[int, typer.Option("--seed", help="seed of the recipe's random numbers")] = 0,
    variables: Variables = None,
    as_json: AsJson = False,
) -> None:
    """Derive a dataset from a version with a recipe in SQL.

    Filters, augmentations, balancing: the rows become a part of the store, reproducible to the byte, which
    train, evaluate and sql read with --dataset.
    """
    from mctrace.cli.display.json_answer import print_json
    from mctrace.cli.sql_variables import parse_variables
    from mctrace.datasets.derived.derive import Derivation
    from mctrace.datasets.derived.derive import derive as derive_dataset
    from mctrace.datasets.derived.recipe import find_recipe
    from mctrace.datasets.sql.connection import connect, fetch_rows
    from mctrace.datasets.store.store import open_store

    settings = configure(config, store, set_)
    derivation = Derivation(find_recipe(recipe), seed, parse_variables(variables or []))
    opened = open_store(settings.store.uri)
    before = opened.ledger.version()
    part = derive_dataset(opened, opened.at(version).read_through(dataset), name, derivation)
    now = opened.at().read_through(name)
    state = "is there already" if opened.ledger.version() == before else f"made version {now.version}"
    (row,) = fetch_rows(connect(now), "from datasets where name = ?", name)
    if as_json:
        found = {key: row[key] for key in _IN_JSON}
        is_new = opened.ledger.version() != before
        print_json(
            {"dataset": name, "is_new": is_new, "version": now.version, "num_bytes": part.size, **found}
        )
        return
    console.print(
        f"dataset {name} {state}: {row['num_rows']} {row['kind']}, {part.size / 1e6:.1f} MB, derived from "
        f"version {row['parent_version']} by {row['recipe_name']} with seed {row['seed']}\n"
        f"next: mctrace train --dataset {name}, or mctrace sql --dataset {name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )

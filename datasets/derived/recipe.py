"""Recipes: queries that make a derived dataset, those that ship in `recipes/` and a user's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mctrace.datasets.sql.registry import own_sql

_FOLDER = Path(__file__).with_name("recipes")

RECIPES = tuple(sorted(path.stem for path in _FOLDER.glob("*.sql")))
"""Recipes that ship."""

OWN_RECIPES = "recipes"
"""Folder beside pipeline.toml in which a user's own NAME.sql is a recipe called NAME."""


@dataclass(frozen=True)
class Recipe:
    """A query and its name."""

    name: str
    text: str

    @property
    def content_hash(self) -> str:
        """sha256 of the query."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def recipe_sql(name: str) -> str:
    """Text of a recipe that ships."""
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")


def find_recipe(name: str) -> Recipe:
    """Recipe that ships, recipes/NAME.sql in the working folder, or any .sql file. Raises InputError."""
    if name in RECIPES:
        return Recipe(name, recipe_sql(name))
    path, text = own_sql("recipe", name, OWN_RECIPES, RECIPES)
    return Recipe(path.name, text)

"""Derived datasets: labels or pairs that a recipe makes of a version, stored as a part of their own.

Begin at `derive`. `recipe` finds recipes, those that ship in `recipes/` or a user's own; `reproducibility`
makes their bytes repeatable; `row_checks` refuses rows that do not fit the store.

Imports sql and store.
"""

"""The analyses that mctrace ships: one question a .sql file over the views of a store, and their catalogue.

Begin with `catalogue.py`, which runs them by name; the header of each .sql file says what a row means and in
which units. `mctrace sql --file` runs the same files. May import datasets.
"""

"""One trace store: a location, its write-once parts, and the ledger that says which parts each version has.

`store` opens and creates stores and reads versions; `parts` writes parts; `ledger` (with `ledger_table`,
`ledger_rows` and `ledger_chain`) commits them; `zarr_arrays`, `file_verification` and `table_download` read
files against the ledger's hashes. `schemas` has the tables, FORMAT.md the same for other readers.

Imports context and the face only; knows nothing of SQL.
"""

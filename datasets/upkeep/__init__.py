"""Upkeep of a store: verification, withdrawal of damaged parts, compaction, sweeping.

Begin at `verify`, which holds files and rows against the ledger (`verify_ledger` checks the ledger itself,
`split_leaks` the splits). `withdrawal` acts on its findings; `compaction` merges small parts; `sweep` removes
files that no version names.

Imports sql and store.
"""

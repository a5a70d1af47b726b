"""SQL over one version of a store: views, macros and targets as .sql files, and safe running of user queries.

Begin at `connection` (opening and locking). `registry` finds definitions in `views/` and `targets/`;
`describe` explains columns; `user_queries` runs other people's SQL, which `sandbox`, `read_only_files` and
`limits` confine; `target` and `target_merging` define what a loss is given; `notebook` is the interface for
Python.

Imports store.
"""

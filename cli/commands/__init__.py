"""Commands of `mctrace`, one module each: the declaration of its options and the calls it makes.

What is slow to import (torch, transformers, Ray, DuckDB) is imported inside a command, so that
`mctrace --help` and `mctrace sql` start fast. The work is in the rooms below, the printing in `cli.display`.
Only `cli/app.py` imports commands: begin there, it lists them all.
"""

"""Terminal output: progress, tables and summaries, one module for each thing displayed.

Everything here formats values that the rooms below have computed; nothing is opened, measured or trained.
Imports rich and the rooms' result types, never `cli.commands`. Begin with `tables.py` and `progress.py`,
which the other modules share.
"""

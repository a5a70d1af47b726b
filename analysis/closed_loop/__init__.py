"""Closed-loop evaluation: policies edit the working contexts of held-out documents, the model's loss judges.

Begin with `evaluation.py`, which runs every policy (`contenders.py`) on every document (`documents.py`):
`loop.py` runs one policy on one document, `policies.py` and `oracles.py` score edits, `context_reader.py`
reads the loss, `rows.py` keeps what is done, `summary.py` makes the table. May import questions, snapshots
and the rooms below analysis; only this sub-room needs a base model.
"""

"""Closed-loop evaluation: policies edit the working contexts of held-out documents, the model's loss judges.

Begin with `evaluation.py`, which runs every policy (`policy_registry.py`) on every document (`documents.py`).
`policy_run.py` runs one policy on one document, `policies.py` and `oracles.py` choose edits,
`context_reader.py` reads the loss and generates, `rows_file.py` keeps what is done, `summary.py` makes the
table. `answers.py` runs a policy on a document whose questions have answers to be given. May import
questions, snapshots and the rooms below analysis; only this sub-room loads a base model.
"""

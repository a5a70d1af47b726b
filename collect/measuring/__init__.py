"""Measurement: losses and their changes under edits, on tensors; no files, no clock, no Ray.

`evaluator.py` computes the labels; start there. `naive_evaluator.py` is the slow definition it must equal,
`architecture_check.py` and `worker_probe.py` show that it does for a model and on a machine, `bring_up.py`
loads the models with these checks. `kept_labels.py` has the labels of contexts that stay as they were read
(`kept_reading.py`), `extracted_labels.py` those with gists that are tokens. Imports planning and corpus, not
running.
"""

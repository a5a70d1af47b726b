"""Evaluation of networks and baselines on a split: metrics with bootstrap intervals over documents.

`split_evaluation.py` runs it; start there. Metrics are additive statistics, so the same sums give the value
of a snapshot, a document and the split. May import `objectives`, `networks` and `inference`; never the loop.
"""

"""Corpus: files to texts, texts to tokens, documents to splits.

`documents.py` reads a corpus as tokenised documents; start there. `splits.py` assigns near-duplicate groups
and splits, `placement_commits.py` keeps them in the store, `recall_documents.py` makes documents with
planted facts. Imports no other sub-room of collect.
"""

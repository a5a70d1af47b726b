"""Corpus: files to texts, texts to tokens, documents to splits.

`documents.py` reads a corpus as tokenised documents; start there. `split_assigner.py` assigns splits to
groups of near-duplicates, `placement_commits.py` keeps them in the store, `recall_documents.py` makes
documents with planted facts in the words of `recall_wordings.py`. Imports no other sub-room of collect.
"""

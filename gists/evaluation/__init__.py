"""Evaluation of a GistNet on held-out documents, beside the mean and deletion.

`loss_changes.py` measures one document, `evaluation_summary.py` summarises all of them with intervals,
`model_card.py` writes the card. May import `training` (maps with replaced spans) and `network`.
"""

"""Evaluation of gists on held-out documents, beside others and deletion.

`variants.py` says what stands for the spans of a window, `loss_changes.py` measures one document,
`evaluation_summary.py` summarises all of them with intervals, `rows_file.py` keeps what is measured,
`model_card.py` writes the card. May import `training` (maps with replaced spans) and `network`.
"""

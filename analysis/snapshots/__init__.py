"""Single snapshots as values that `mctrace show` and the report display.

Begin with `view.py`: the spans of a working context with their text and every legal action on them.
`scoring.py` adds checkpoints' scores, `planned_edits.py` the edits that the focus allocator would make,
`visible_text.py` makes document text safe to look at. May import questions and the rooms below analysis.
"""

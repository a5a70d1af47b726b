"""`mctrace report`: one version of a store, training runs and checkpoints as one self-contained HTML file.

Begin with `report.py`, which decides the pages; `page.py` renders them with the template, style and scripts
in assets/. The chapters are in sections/; `figures.py` and `formatting.py` are their plots and numbers,
`run_results.py` reads run folders. May import closed_loop, snapshots, questions and the rooms below analysis.
"""

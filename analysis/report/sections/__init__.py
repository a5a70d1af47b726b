"""The chapters of a report, one file each: rows of an analysis or files of a run in, a `Section` out.

Begin with `value_of_detail.py`, which is typical. May import `page`, `figures`, `formatting` and
`run_results` of the report, snapshots and questions.
"""

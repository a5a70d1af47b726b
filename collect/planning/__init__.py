"""Planning: what a run will measure, as values with part ids that follow from their content; no weights
needed.

`run_plan.py` plans a run, `document_plan.py` one document, `trace_files.py` logged contexts; the result are
the units of `work_units.py`. `edits.py` and `forward_passes.py` say what the evaluator will run for each.
Only `lensnet_policy.py` needs models. Imports corpus, not measuring or running.
"""

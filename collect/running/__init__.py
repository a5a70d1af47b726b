"""Collection runs: the driver's loop, from a plan to committed parts.

`driver.py` has the loop; start there. `remaining_work.py` says what is left to measure, as it is planned,
`quarantine.py` what is left out because it failed, `calibration.py` compares an estimator with exact labels
before a run. Imports all other sub-rooms of collect; of its files only `document_tasks.py` imports Ray.
"""

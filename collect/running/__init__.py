"""Collection runs: one driver, and workers that measure, in this process or one per Ray actor.

`driver.py` has the run's loop; start there. `remaining_work.py` says what is left to measure, as it is
planned. `worker.py` turns a unit of work into a part of the store; `worker_agreement.py` compares workers
before they measure, `calibration.py` the two estimators. Imports all other sub-rooms of collect; only
`ray_pool.py`, its actors (`actor_group.py`, `worker_actor.py`), `cluster_checks.py` and `document_tasks.py`
import Ray.
"""

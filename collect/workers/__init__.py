"""Workers: who measures, in this process or one per Ray actor.

`worker.py` turns a unit of work into a part of the store; start there. `worker_pool.py` is what a driver sees
of workers, `worker_agreement.py` compares them before they measure; `ray_pool.py` with its actors
(`actor_group.py`, `worker_actor.py`) and `cluster_checks.py` alone import Ray. Imports measuring, planning,
corpus and cluster.
"""

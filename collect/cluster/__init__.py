"""Elastic clusters: connecting to Ray, what nodes can hold, whose fault an error is, work to be given out.

Knows neither models nor the store's tables; `running/ray_pool.py` puts it together.
"""

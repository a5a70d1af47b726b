"""Seeded random generators, one per purpose, independent of the order in which work is done.

Each draw has its own generator, keyed by names (document, policy, number) and the run's seed. Results do not
depend on the number of workers or their order.
"""

import hashlib
import json

import numpy as np


def generator_for(*key: str | int) -> np.random.Generator:
    """A random generator determined by `key` alone, the same on every machine and release."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))

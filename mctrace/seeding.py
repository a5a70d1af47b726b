"""Seeded chance that depends on what it is for, never on who draws first.

Each draw has a generator of its own, keyed by names (document, policy, number) and the run's seed; results
do not depend on the number of workers or their order.
"""

import hashlib
import json

import numpy as np


def generator_for(*key: str | int) -> np.random.Generator:
    """A generator determined by `key` alone, the same on every machine."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))

"""LensNets: networks that map a batch of working contexts to one score per entry.

`lensnet.py` has the base class and input features, `registry.py` builds a network from its configuration;
start there. The others are the architectures. Imports `datasets.batches` for the batch type, nothing else of
`train`.
"""

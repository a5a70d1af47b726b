"""Batches for a trainer: labels and preference pairs of a version, read and assembled into padded tensors.

Batches are defined in `padded_batch`, read by `label_reader` and `pair_reader`, assembled by `collate` and
`collate_pairs`. `context_tensors` makes the inputs alone, for a live runtime without a store.

Imports sql and store.
"""

"""Trained LensNets at run time: scorer, compatibility check, `torch.export`.

`scorer.py` loads a checkpoint and scores working contexts; start there. May import everything in `train`, and
runs without a store: torch, numpy and safetensors suffice.
"""

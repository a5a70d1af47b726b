"""Checkpoints on disk: atomic folders with manifests, checked weights, and their retention.

`lensnet_checkpoint.py` saves and loads a LensNet; start there. The other modules serve any network: GistNets
and base models use `manifest.py` and `weights.py` too. May import `networks` and `config`.
"""

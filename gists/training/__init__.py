"""Training of a GistNet: windows, substitutability loss, initialisation, pretraining of the picks.

`training_loss.py` connects them to the optimisation loop of `train/loop`; start there. The frozen model comes
in through `base_model`. May import `network`.
"""

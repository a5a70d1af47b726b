"""Training of a GistNet: windows, substitutability loss, initialisation, pretraining of the picks.

`training_loss.py` connects them to the optimisation loop of `train/loop`; start there. Gists of keys and
values have their own windows, loss and run in `key_value_*.py`. The frozen model comes in through
`base_model`. May import `network`.
"""

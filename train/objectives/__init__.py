"""Training objectives of LensNet: losses of a batch's scores, and the gradients of a whole step.

`counterfactual.py` is the loss of labels, `preference.py` that of pairs of contexts; `lensnet_gradients.py`
computes either, or both, over the parts of a batch and all workers; start there. May import `networks`.
"""

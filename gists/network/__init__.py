"""GistNets: the protocol, the mean baseline, the trainable transformer, and loading by name or folder.

`gistnet.py` has the protocol and builds a document's tree with it; start there. Imports neither training nor
evaluation, so collecting labels needs this sub-room only.
"""

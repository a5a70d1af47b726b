"""Training loop: data loader, optimisation steps, telemetry, resume.

Three modules, from the inside out: `optimisation_steps.py` runs steps (the one loop for LensNet and GistNet),
`training_loop.py` reports, validates and saves between them, `lensnet_training.py` assembles a LensNet's
training; start there. May import everything in `train` but `serving`.
"""

"""IMS3: diffusion-based dataset distillation by Inversion-Matching and Selective Subgroup Sampling."""

import os

# What an idle thread of OpenMP does: sleep. The default spins for a while, which on a machine that computes something
# else beside takes the core from it: tens of times slower there, same bytes. Read when torch is loaded, so it is
# set here; a value of the user's own stays.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
if not os.environ.keys() & set(WAITING):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

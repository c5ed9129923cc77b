"""IMS3: diffusion-based dataset distillation by Inversion-Matching and Selective Subgroup Sampling."""

import os

# What an idle thread of OpenMP does: spin shortly, then sleep. The default spins so long that it takes the core from
# other work, tens of times slower there; to sleep at once (PASSIVE) costs 40 % on an idle machine. The bytes are the
# same. Read when torch is loaded, so it is set here; a value of the user's own stays.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
if not os.environ.keys() & set(WAITING):
    os.environ["GOMP_SPINCOUNT"] = "1000"

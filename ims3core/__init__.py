"""IMS3: diffusion-based dataset distillation by Inversion-Matching and Selective Subgroup Sampling."""

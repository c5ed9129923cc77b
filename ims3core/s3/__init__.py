"""The numerics of Selective Subgroup Sampling: centroids (Eq. 8, 9), objective (Eq. 10), search (Eq. 11), bounds."""

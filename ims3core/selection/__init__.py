"""Which candidates are kept: centroids, S3 (objective, search, bounds), coresets, and the registry of selections."""

"""Which candidates are kept: centroids, the S3 search and its bounds, coresets, and the registry of selections."""

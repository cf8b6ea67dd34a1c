"""Catalog of streams, sources of samples, made images, the loaders of one task."""

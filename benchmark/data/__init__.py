"""Catalog of streams, readers of sources, made images, the image cache, the batches of one task."""

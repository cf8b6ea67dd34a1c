"""Pretraining of the two shipped backbones on made images: ``phantom-clip`` and, on its tower, ``phantom-llava``."""

"""Fusion: graded as classification is; what a sample shows beside its image changes nothing in that."""

from __future__ import annotations

from benchmark.running.answers.classification import answered

__all__ = ["answered"]

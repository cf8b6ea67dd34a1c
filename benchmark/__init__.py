"""The harness: runs a method over a stream of tasks, records it, compares records."""

__version__ = "0.1.0"

"""What a run is, from its arguments: resolved before torch is imported."""

"""Many runs: a grid of cells, what they would take, where they run, records brought together. No torch."""

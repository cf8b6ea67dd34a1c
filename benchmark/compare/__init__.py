"""Records beside each other: which count, statistics, leaderboards, tables. No torch."""

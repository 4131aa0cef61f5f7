"""Programs that measure: how fast, how much memory, how good."""

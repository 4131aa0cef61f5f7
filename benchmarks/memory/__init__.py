"""What a run holds in memory: how well that is known before it, and what holding less costs."""

"""How fast and how large trainers are, ours and others', in one interleaved run."""

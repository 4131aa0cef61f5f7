"""The quality bench's own eyes: an evaluator of pictures of the drawn world, trained on it."""

"""What ends a run that has begun."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says at which step, why, and what to do."""


class UpdateDidNotFit(TrainingError):
    """Memory ran out while the weights were updated, so they may be half updated."""

"""What can be wrong with a checkpoint. Every message names the thing and the way out."""


class CheckpointError(RuntimeError):
    """The file or its tensors are damaged, incomplete, or could not be written."""


class UnsupportedModel(ValueError):
    """A sound model of a kind that this trainer does not train, refused by name."""

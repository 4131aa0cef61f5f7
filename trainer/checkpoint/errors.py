"""What can be wrong with a checkpoint. Every message names the thing and the way out."""


class CheckpointError(RuntimeError):
    """The file or its tensors are damaged, incomplete, or could not be written."""


class FileInUse(CheckpointError):
    """It could not be put in its place: another program has open what is there."""


class UnsupportedModel(ValueError):
    """A sound model of a kind that this trainer does not train, refused by name."""

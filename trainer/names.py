"""What a run may be called."""

from .config import ConfigError, shown

_RESERVED = {"con", "prn", "aux", "nul"} | {f"{p}{i}" for p in ("com", "lpt") for i in range(10)}
# beside the runs' folders lie some that are shared by all of them
_SHARED = {"cache", "class_images", "intake", "jobs"}
_FORBIDDEN = set('<>:"/\\|?*')


def check_name(name: str) -> str:
    """A name that is one plain file name on every system.

    Raises:
        ConfigError: names the character or the reason.
    """
    bad = sorted({c for c in name if c in _FORBIDDEN or not c.isprintable()})
    if bad:
        those = ", ".join(repr(c) for c in bad[:8])
        raise ConfigError(
            f"name = {shown(name)} holds {those}: use letters, digits, spaces, - and _"
        )
    if not name or name != name.strip() or name.strip(".") != name:
        raise ConfigError(
            f"name = {shown(name)}: give a name that neither begins nor ends with a dot or a space"
        )
    is_reserved = name.lower() in _SHARED or name.lower().split(".")[0] in _RESERVED
    if is_reserved or len(name.encode()) > 120:
        raise ConfigError(f"name = {shown(name)} is reserved or too long: choose another")
    return name

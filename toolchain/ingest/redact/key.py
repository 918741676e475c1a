"""The key of the surrogates: beside the user's data, and nowhere else.

The same value gets the same surrogate in each run, so that the split stays as it is. Who has the
key can tell whose surrogate one is: it never enters an output folder, a record or a bundle.
"""

import secrets
from functools import cache
from pathlib import Path

from toolchain.errors import ConfigError
from toolchain.files import kept_secret

KEY_FILE = ".demitasse-redaction.key"
_BYTES = 32


def key_of(folder: Path) -> bytes:
    """Return the key in a recipe's folder, or one of this run alone where there is none yet."""
    path = folder / KEY_FILE
    return _read(path) if path.exists() else _of_this_run()


def made_key(folder: Path) -> tuple[bytes, bool]:
    """Return the key in a recipe's folder, and whether it was made now."""
    path = folder / KEY_FILE
    if path.exists():
        return _read(path), False
    own = (secrets.token_hex(_BYTES) + "\n").encode("ascii")
    try:
        is_new = kept_secret(path, lambda: own) == own
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}",
            hint="the key of the surrogates lies beside the recipe: copy the recipe into a folder "
            "of your own",
        ) from error
    return _read(path), is_new


def _read(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
        is_open = path.stat().st_mode & 0o077
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a key", hint=_ANOTHER) from error
    if len(key) != _BYTES:
        raise ConfigError(f"{path}: cannot be read as a key", hint=_ANOTHER)
    if is_open:
        raise ConfigError(f"{path}: others may read it", hint=f"chmod 600 {path}")
    return key


_ANOTHER = "move it away, and the next run makes another: all surrogates change with it"


@cache
def _of_this_run() -> bytes:
    return secrets.token_bytes(_BYTES)

"""What an owner says in a round of sealed tallies, signed by the owner (signed_record.py).

Whatever folder or host the files pass through, a statement is its owner's, word for word, or it is
refused. The rule to keep: who said it is decided by the key that the round names, never by a name
in the file.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from toolchain import signed_record, signing
from toolchain.errors import ConfigError

FORM = signed_record.Form(
    key="statement",
    namespace="demitasse-tally",
    max_bytes=4 << 20,
    hint="ask its owner for the file as demitasse wrote it",
)
Statement = TypeVar("Statement", bound=BaseModel)


def write_signed(statement: BaseModel, key: signing.SigningKey, path: Path) -> None:
    """Sign a statement and write it as one file."""
    try:
        signed_record.write(FORM, statement, key, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def read_signed(path: Path, shape: type[Statement]) -> tuple[Statement, bytes]:
    """Return a statement and the key that signed it, in SSH's wire format.

    Raise ArtifactError for another file, TrustError for a signature of something else.
    """
    statement, signature = signed_record.read(FORM, path, shape)
    return statement, signature.key

"""References inside a JSON schema (`$ref`): the schemas that they name.

Standard library only.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from device.serve.combining import merged
from device.serve.shapes import refused

MAX_STEPS = 16
"""Maximum number of references that lead from one to the next."""


class References:
    """Follows the references of one schema."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def resolved(self, target: Any, where: str) -> Any:
        """Return the schema that a reference names: a JSON pointer as a URI fragment (RFC 6901).

        Example: `#/$defs/a~1b`.
        """
        if not isinstance(target, str) or not target.startswith("#"):
            raise refused(where, f"`{str(target)[:80]}` is not in this schema")

        path = unquote(target[1:])
        at: Any = self._schema

        # The pointer of the whole schema is empty, and every other one begins with a slash.
        parts = path.split("/")[1:] if path.startswith("/") or not path else [path]
        for part in parts:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and name in at:
                at = at[name]
            elif isinstance(at, list) and name.isdecimal() and int(name[:9]) < len(at):
                at = at[int(name[:9])]
            else:
                raise refused(where, f"`{target[:80]}` is not in this schema")

        return at

    def shape(self, schema: Any, where: str) -> Mapping[str, Any]:
        """Return a schema with its references followed, and those of its properties."""
        shape = self.followed(schema, where)
        names = shape.get("properties")
        if isinstance(names, dict):
            followed = {key: self.followed(value, where) for key, value in names.items()}
            return {**shape, "properties": followed}

        return shape

    def followed(self, schema: Any, where: str) -> Mapping[str, Any]:
        """Return a schema without references and without `allOf`; empty if it is none."""
        for _ in range(MAX_STEPS):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self.resolved(schema["$ref"], where)
        if not isinstance(schema, dict):
            return {}
        if "allOf" in schema:
            return self.together([schema], where)
        known: Mapping[str, Any] = schema
        return known

    def together(self, parts: Sequence[Any], where: str) -> dict[str, Any]:
        """Return the schema of values that fit all parts; raise FieldError if there is none."""
        return merged(parts, self.resolved, where)

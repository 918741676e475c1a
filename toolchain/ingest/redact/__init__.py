"""Personal data in the text of a recipe: found, and replaced where the recipe says so.

A row a kind, a file a kind. What is found is counted and written down by place, kind and rule; its
value never is. Replaced text is pseudonymised: who has the key can tell the same value again.
"""

import bisect
import fnmatch
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from toolchain.ingest.redact import address, card, cn_id, email, ip, name, phone, plate, secret
from toolchain.ingest.redact.kind import Draw, Kind, folded, has_digit
from toolchain.recipe import RedactSpec

ORDER: tuple[Kind, ...] = (
    secret.KIND,
    email.KIND,
    cn_id.KIND,
    phone.MOBILE,
    card.KIND,
    ip.KIND,
    phone.OTHER,
    plate.KIND,
    address.KIND,
    name.KIND,
)
"""Kinds in the order in which they claim their places: a mobile number is no card."""
NOT_LOOKED_FOR: Mapping[str, str] = MappingProxyType(
    {
        "name": "names without a cue such as `姓名：`, `Mr.` or `Herr`",
        "address": "addresses without a number, and those of other countries than China, "
        "Germany, Austria, the United States and the United Kingdom",
        "phone": "local numbers, and mobile ones in unusual groups, without a cue such as `电话` "
        "or `Telefon`",
        "cn_id": "identity numbers of other countries, and those of Hong Kong, Macao and Taiwan",
        "email": "addresses such as `name at firm.com`: `look at firm.com` is none",
        "plate": "plates of other countries, and of embassies, without a cue such as `车牌` or "
        "`Kennzeichen`",
        "secret": "passwords without a cue, and those of letters alone or digits alone",
    }
)
"""Kind → what of it no rule finds: every report says so."""


class Hit(NamedTuple):
    """A value in a text, and what becomes of it."""

    start: int
    end: int
    kind: str
    rule: str
    surrogate: str
    """What replaces it; empty where it stays because the recipe or a standard says so."""


@dataclass(frozen=True, slots=True)
class Redactor:
    """Rules of one recipe with the user's key."""

    spec: RedactSpec
    key: bytes

    def hits(self, text: str) -> list[Hit]:
        """Return the values in a text in their order; those that stay included."""
        plain = folded(text)
        found: list[Hit] = []
        digits = has_digit(plain)
        for kind in ORDER:
            looks = kind.name in self.spec.kinds and (digits or not kind.needs_digit)
            if looks and kind.may_hold(plain):
                _claim(found, self._of_kind(kind, plain))
        if found and "name" in self.spec.kinds:
            _claim(found, self._again(plain, found))
        return found

    def _of_kind(self, kind: Kind, plain: str) -> Iterable[Hit]:
        for span in kind.find(plain):
            value = plain[span.start : span.end]
            yield Hit(span.start, span.end, kind.name, span.rule, self._surrogate(kind, value))

    def _again(self, plain: str, found: Sequence[Hit]) -> Iterable[Hit]:
        """Yield where a name that a cue gave away stands again in the same text."""
        names = {
            plain[each.start : each.end]: each
            for each in found
            if each.kind == "name" and each.surrogate
        }
        for value, hit in names.items():
            if len(value) < 2 or (value.isascii() and " " not in value):
                continue
            at = plain.find(value)
            while at >= 0:
                yield Hit(at, at + len(value), "name", "named before", hit.surrogate)
                at = plain.find(value, at + len(value))

    def _surrogate(self, kind: Kind, value: str) -> str:
        normal = kind.normal(value)
        kept = (fnmatch.fnmatchcase(normal, kind.normal(each)) for each in self.spec.keep)
        shown = any(
            fnmatch.fnmatchcase(value.casefold(), each.casefold()) for each in self.spec.keep
        )
        if kind.is_reserved(value) or shown or any(kept):
            return ""
        draw = Draw(hmac.digest(self.key, kind.name.encode(), "sha256"), normal)
        if self.spec.surrogates == "lifelike":
            return kind.lifelike(draw)
        return f"[{kind.name}-{draw.word(6)}]"


def _claim(found: list[Hit], hits: Iterable[Hit]) -> None:
    """Add the hits that overlap none that is there already; `found` stays in order."""
    for hit in hits:
        at = bisect.bisect_left(found, hit.start, key=lambda each: each.start)
        ends_before = at == 0 or found[at - 1].end <= hit.start
        begins_behind = at == len(found) or hit.end <= found[at].start
        if hit.end > hit.start and ends_before and begins_behind:
            found.insert(at, hit)


def replaced(text: str, hits: Sequence[Hit]) -> str:
    """Return a text with each value replaced that does not stay."""
    pieces, at = [], 0
    for hit in hits:
        if hit.surrogate:
            pieces += [text[at : hit.start], hit.surrogate]
            at = hit.end
    return "".join([*pieces, text[at:]])

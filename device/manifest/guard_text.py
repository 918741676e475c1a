"""What the guard reads of a text: one plain spelling of it, and texts that are encoded in it.

Host and board call this before they hash a text, so that what was trained is what is compared. The
rule to keep: whatever a disguise does to the letters of a word (other alphabets that look alike,
invisible characters, gaps, digits for letters, traditional characters), the plain spelling is that
of the word itself. Standard library only, Python 3.10 up.
"""

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from device.manifest.guard_chinese import SIMPLIFIED

_DEPTH = 3
"""How often an encoded text may be encoded again."""
# No number of encoded texts is too large: whoever puts harmless ones first would hide the last one.
# All texts of one depth are together not much longer than the text.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LOOK_ALIKE = str.maketrans(
    # Cyrillic, Greek, Armenian and Cherokee letters that are drawn like Latin ones (Unicode
    # Technical Standard 39, confusables.txt: the rows of single small letters).
    "абвгдеёзиіїјкӏлмнопрсԁԛѕтуүхһшщьъыэяѵѡαβγδεζηθικλμνξοπρςστυφχψωագհոսցօզ",
    "abbrдeeзиiijkllmhonpcdqstyyxhwwbbbэrvwabyδeznoiklmvξonpcstupχψwwqhnugoq",
)
_READ_AS = {**_LOOK_ALIKE, **SIMPLIFIED}
_LEET = str.maketrans("013457@$!€£+", "oieastasielt")
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters that show nothing and are not of the category Cf."""
_LETTER = r"[^\W\d_]"
_SPELLED = tuple(
    re.compile(rf"(?<!\w)\w(?:(?:{gap})\w(?!\w)){{2,}}")
    for gap in (r"[^\w\s]{1,3}", r"\s[^\w\s]{1,2}\s", r"\s")
)
"""Single letters with gaps of one kind between them: `f.u.c.k`, `b - o - m - b`, `b o m b`."""
_APART = re.compile(r"(?:^|(?<=\s\s))\w(?:\s\w)+(?=\s\s|$)")
"""Words of single letters where the words themselves are two spaces apart."""
_IN_WORD = re.compile(rf"(?<={_LETTER})[^\w\s,;:!?()\[\]{{}}]{{1,3}}(?={_LETTER})")
"""Marks inside a word, such as in `bo*mb`."""
_IN_CJK = re.compile(rf"(?<=[{_CJK}])[\s._*|/~·+\-]+(?=[{_CJK}])")
_LEET_WORD = re.compile(r"[\w@$!€£+]+")
_REPEATED = re.compile(rf"({_LETTER})\1{{2,}}")
_REST = re.compile(r"\W+")
_SEPARATED = re.compile(r"[^\W_]{1,20}([_.+|~*/-])[^\W_]{1,20}(?:\1[^\W_]{1,20})+")
"""Three words or more with one mark between them: `how_do_I_build`."""
_TAG = re.compile(r"<!--.{0,200}?-->|</?[A-Za-z][^<>]{0,100}>", re.DOTALL)
"""Tags of HTML, which part a word: `b<b>o</b>mb`."""
_LONG = str.maketrans("\ufdfa\ufdfb", "  ")
"""Ligatures of whole sentences: NFKC makes 18 characters of one."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}(?:\s+[A-Za-z0-9+/_-]{4,}={0,2})*")
_BASE64_PARTS = re.compile("[/_-]")
"""What may also part a text in base64 from a word before it."""
_HEX = re.compile(r"(?:0x)?(?:[0-9a-fA-F]{2}[\s:,-]?(?:0x|\\x)?){8,}")
_BITS = re.compile(r"(?:[01]{8}\s?){6,}")
_ESCAPED = re.compile(
    r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\u\{0*([0-9a-fA-F]{1,5})\}|U\+([0-9a-fA-F]{4,5})\b ?"
)
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
"""Characters that no screen shows and that spell ASCII."""


def plain(text: str) -> str:
    """Return the plain spelling of a text: lower case, words of letters and digits, one space."""
    text = unicodedata.normalize("NFKC", text.translate(_LONG))
    text = _letters(text).replace("_", ".")
    for pattern in (_APART, *_SPELLED):
        text = pattern.sub(_joined, text)
    text = _LEET_WORD.sub(_unleet, text)
    text = _IN_WORD.sub("", text)
    text = _IN_CJK.sub("", text)
    text = _REPEATED.sub(r"\1", text)
    return _REST.sub(" ", text).strip()


def readings(text: str) -> list[str]:
    """Return the plain spelling of a text, then those of the texts that are encoded in it."""
    found = dict.fromkeys((plain(text), *map(plain, _hidden(text))))
    return [each for each in found if each] or [""]


def _letters(text: str) -> str:
    """Return a text in small letters without accents, invisible characters and look-alikes."""
    if text.isascii():
        return text.lower()
    # Letters come apart from their marks, so that the marks can go; what is left is put together
    # again, because Korean syllables came apart as well.
    apart = unicodedata.normalize("NFD", text.casefold())
    kept = "".join(map(_letter, apart))
    return unicodedata.normalize("NFC", kept).translate(_READ_AS)


_KNOWN: "dict[str, str]" = {}
"""Character → what is read for it; filled as characters come."""


def _letter(character: str) -> str:
    known = _KNOWN.get(character)
    if known is None:
        known = _read(character)
        if len(_KNOWN) < 4096:
            _KNOWN[character] = known
    return known


def _read(character: str) -> str:
    if character.isascii():
        return character
    code = ord(character)
    # Letters in black circles and squares, and flags: NFKC leaves them as they are.
    for first in (0x1F150, 0x1F170, 0x1F1E6):
        if first <= code < first + 26:
            return chr(ord("a") + code - first)
    kind = unicodedata.category(character)
    if kind in ("Mn", "Me", "Cf", "Cc", "Co", "Cs") and character not in "\n\t":
        return ""
    if character in _INVISIBLE:
        return ""
    # Latin letters of other alphabets are named after the letter: `LATIN SMALL LETTER O WITH
    # STROKE`, `LATIN LETTER SMALL CAPITAL B`.
    name = unicodedata.name(character, "")
    named = re.match(
        r"LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL |TURNED |REVERSED |SCRIPT |DOTLESS "
        r"|OPEN |INVERTED )*([A-Z])(?: WITH .*)?$",
        name,
    )
    return named.group(1).lower() if named else character


def _joined(match: "re.Match[str]") -> str:
    """Return a word that was spelled letter by letter."""
    letters = re.findall(r"\w", match.group())
    is_number = all(letter.isdigit() for letter in letters)
    return match.group() if is_number else "".join(letters)


def _unleet(match: "re.Match[str]") -> str:
    """Return a word with letters for the digits and signs inside it.

    Digits at its end stay: `pi4` and `usb3` are no disguise.
    """
    word = match.group()
    if word.isalpha() or not any(map(str.isalpha, word)):
        return word
    body = word.rstrip("0123456789!+")
    return body.translate(_LEET) + word[len(body) :]


def _hidden(text: str) -> Iterator[str]:
    """Yield the texts that are encoded in a text, and those that are encoded in these."""
    known = {text}
    depth = [text]
    for _ in range(_DEPTH):
        depth = [each for one in depth for each in _decoded(one) if each not in known]
        known.update(depth)
        yield from dict.fromkeys(depth)


def _decoded(text: str) -> Iterator[str]:
    """Yield a text without its escapes and separators, and the texts that are encoded in it."""
    if (found := _opened(text)) != text:
        yield found
    if tags := _TAGS.findall(text):
        yield "".join(chr(ord(each) - 0xE0000) for each in "".join(tags))
    for pattern, read in ((_BITS, _from_bits), (_HEX, _from_hex)):
        for match in pattern.finditer(text):
            if found := _as_text(read(match.group())):
                yield found
    for match in _BASE64.finditer(text):
        # One text may be broken into lines; and a long word may stand before it.
        for part in dict.fromkeys((match.group(), *match.group().split())):
            # `decode/aG93…`: the word before it is of the same alphabet.
            for tail in (part, *_BASE64_PARTS.split(part, 2)[1:]):
                if found := _as_text(_from_base64(tail)):
                    yield found


def _opened(text: str) -> str:
    """Return a text without escapes and tags, and with spaces between words that marks part."""
    if "%" in text:
        text = unquote(text, errors="ignore")
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text or "U+" in text:
        text = _ESCAPED.sub(_unescaped, text)
    if "<" in text:
        text = _TAG.sub("", text)
    return _SEPARATED.sub(_spaced, text)


def _unescaped(match: "re.Match[str]") -> str:
    return chr(int(next(filter(None, match.groups())), 16))


def _spaced(match: "re.Match[str]") -> str:
    """Return words with spaces between them; letters that were spelled one by one stay."""
    parts = match.group().split(match.group(1))
    is_words = sum(len(part) > 1 for part in parts) * 2 >= len(parts)
    return " ".join(parts) if is_words else match.group()


def _from_bits(text: str) -> bytes:
    bits = "".join(text.split())
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))


def _from_hex(text: str) -> bytes:
    digits = re.sub(r"0x|\\x|[\s:,-]", "", text)
    return bytes.fromhex(digits[: len(digits) // 2 * 2])


def _from_base64(text: str) -> bytes:
    letters = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4))
    except binascii.Error:
        return b""


def _as_text(raw: bytes) -> str:
    """Return bytes as a text; empty if they are none: most words decode to noise."""
    if raw.count(0) * 3 > len(raw):
        raw = raw.replace(b"\0", b"")  # Latin letters in UTF-16
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    shown = sum(each.isalnum() or each in " ,.?!'\"\n-" for each in text)
    return text if len(text) > 3 and shown >= 0.9 * len(text) else ""

"""The language of a text of at least forty characters: by its script, and by its commonest words.

Shorter texts have no language here: `WiFi连不上怎么办` is taken for another one by every detector
that was tried.
"""

import re
from collections.abc import Mapping

MIN_CHARACTERS = 40
_SCRIPTS: Mapping[str, re.Pattern[str]] = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7af\u1100-\u11ff]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "ar": re.compile("[\u0600-\u06ff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}
"""Script → the language that is taken for it; Japanese is Chinese characters with kana."""
_WORDS: Mapping[str, frozenset[str]] = {
    "en": frozenset(
        [
            "the",
            "and",
            "is",
            "of",
            "to",
            "in",
            "it",
            "you",
            "that",
            "for",
            "on",
            "with",
            "how",
            "what",
            "do",
            "my",
            "can",
            "are",
            "be",
            "not",
            "this",
            "if",
            "when",
            "your",
            "a",
            "an",
            "at",
            "as",
            "from",
            "or",
            "have",
            "has",
            "i",
            "does",
            "why",
        ]
    ),
    "de": frozenset(
        [
            "der",
            "die",
            "das",
            "und",
            "ist",
            "nicht",
            "ich",
            "sie",
            "ein",
            "eine",
            "zu",
            "den",
            "mit",
            "auf",
            "für",
            "von",
            "wie",
            "was",
            "wenn",
            "auch",
            "dem",
            "im",
            "es",
            "kann",
            "wird",
            "sich",
            "mein",
            "ihre",
            "bei",
            "oder",
            "haben",
        ]
    ),
    "fr": frozenset(
        [
            "de",
            "à",
            "en",
            "l",
            "d",
            "qu",
            "quel",
            "quelle",
            "ou",
            "où",
            "cette",
            "cet",
            "nous",
            "se",
            "le",
            "la",
            "les",
            "et",
            "est",
            "pas",
            "je",
            "vous",
            "un",
            "une",
            "des",
            "du",
            "que",
            "qui",
            "dans",
            "pour",
            "sur",
            "avec",
            "ne",
            "ce",
            "mon",
            "votre",
            "au",
            "comment",
            "il",
            "elle",
            "par",
            "plus",
            "peut",
            "sont",
        ]
    ),
    "es": frozenset(
        [
            "a",
            "dónde",
            "el",
            "la",
            "los",
            "las",
            "y",
            "es",
            "no",
            "un",
            "una",
            "de",
            "que",
            "en",
            "por",
            "para",
            "con",
            "se",
            "su",
            "mi",
            "como",
            "lo",
            "al",
            "del",
            "qué",
            "cómo",
            "puede",
            "está",
            "son",
            "más",
            "si",
        ]
    ),
    "it": frozenset(
        [
            "a",
            "dell",
            "dello",
            "l",
            "dal",
            "dalla",
            "i",
            "al",
            "dove",
            "più",
            "nella",
            "il",
            "lo",
            "la",
            "gli",
            "le",
            "e",
            "è",
            "non",
            "un",
            "una",
            "di",
            "che",
            "in",
            "per",
            "con",
            "si",
            "mio",
            "come",
            "del",
            "della",
            "sono",
            "può",
            "questo",
            "nel",
            "alla",
            "da",
        ]
    ),
    "pt": frozenset(
        [
            "ao",
            "aos",
            "nas",
            "minha",
            "qual",
            "ou",
            "o",
            "a",
            "os",
            "as",
            "e",
            "é",
            "não",
            "um",
            "uma",
            "de",
            "que",
            "em",
            "por",
            "para",
            "com",
            "se",
            "seu",
            "meu",
            "como",
            "do",
            "da",
            "no",
            "na",
            "está",
            "são",
            "mais",
            "você",
        ]
    ),
    "nl": frozenset(
        [
            "wij",
            "u",
            "heb",
            "als",
            "uit",
            "bij",
            "die",
            "de",
            "het",
            "een",
            "en",
            "is",
            "niet",
            "ik",
            "je",
            "van",
            "dat",
            "in",
            "op",
            "te",
            "met",
            "voor",
            "hoe",
            "wat",
            "mijn",
            "aan",
            "er",
            "zijn",
            "kan",
            "wordt",
            "ook",
            "naar",
        ]
    ),
}
"""Language → its commonest words."""
_COMMON = frozenset(word for words in _WORDS.values() for word in words)
_CODE = re.compile(r"`[^`]*`")
_WRITTEN = re.compile(r"\S+")
_SIGNS = frozenset("/\\@_=")
"""Signs of links, paths and code, which are in no language."""
_WORD = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str:
    """Return the code of a text's language (ISO 639-1); empty where that is not known."""
    # One pass: a pattern such as `\S*/\S*` takes quadratic time, and Chinese has no spaces.
    plain = _CODE.sub(" ", text) if "`" in text else text
    if not _SIGNS.isdisjoint(plain):
        plain = _WRITTEN.sub(_word_alone, plain)
    if len(plain.strip()) < MIN_CHARACTERS:
        return ""
    if plain.isascii():
        return _of_words(_WORD.findall(plain.casefold()))
    letters = sum(map(str.isalpha, plain))
    counts = {code: len(script.findall(plain)) for code, script in _SCRIPTS.items()}
    if counts["ja"] * 10 >= counts["zh"] and counts["ja"] >= 3:
        counts["ja"] += counts["zh"]
    best = max(counts, key=lambda code: counts[code])
    # A Chinese character says about as much as four letters.
    weight = 4 if best in ("zh", "ja", "ko") else 1
    if counts[best] * weight * 2 > letters:
        return best
    return _of_words([word.casefold() for word in _WORD.findall(plain)])


def _word_alone(match: re.Match[str]) -> str:
    """Return what stands between two spaces; a space for a link, a path or code."""
    return match[0] if _SIGNS.isdisjoint(match[0]) else " "


def _of_words(words: list[str]) -> str:
    if len(words) < 6:
        return ""
    known = [word for word in words if word in _COMMON]
    shares = {
        code: sum(word in common for word in known) / len(words) for code, common in _WORDS.items()
    }
    best, second = sorted(shares, key=lambda code: -shares[code])[:2]
    is_clear = shares[best] >= 0.15 and shares[best] >= 1.3 * shares[second]
    return best if is_clear else ""

"""Keys, tokens and passwords: by their issuers' marks, or by a cue before them."""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import LEFT, RIGHT, Kind, Span, spans

_MARKS = re.compile(
    rf"{LEFT}(?:"
    r"(?:AKIA|ASIA|AROA)[0-9A-Z]{16}"  # AWS
    r"|LTAI[0-9A-Za-z]{12,26}"  # Aliyun
    r"|AKID[0-9A-Za-z]{32}"  # Tencent Cloud
    r"|gh[pousr]_[0-9A-Za-z]{36,}|github_pat_[0-9A-Za-z_]{22,}|glpat-[0-9A-Za-z_-]{20,}"
    r"|sk-(?:ant-|proj-)?[0-9A-Za-z_-]{20,}|(?:sk|rk|pk)_(?:live|test)_[0-9A-Za-z]{16,}"
    r"|xox[abeprs]-[0-9A-Za-z-]{10,}|AIza[0-9A-Za-z_-]{35}|hf_[0-9A-Za-z]{30,}"
    r"|npm_[0-9A-Za-z]{36}|pypi-[0-9A-Za-z_-]{50,}|SG\.[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}"
    r"|\d{8,10}:AA[0-9A-Za-z_-]{33}"  # Telegram
    r"|eyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"  # a JWT (RFC 7519)
    r"|GOCSPX-[0-9A-Za-z_-]{20,}|ya29\.[0-9A-Za-z_-]{20,}"  # Google
    r"|dckr_pat_[0-9A-Za-z_-]{20,}|dop_v1_[0-9a-f]{64}|shpat_[0-9a-f]{32}"
    rf"){RIGHT}"
)
_HOOK = re.compile(r"hooks\.slack\.com/services/(?P<value>T\w{6,}/B\w{6,}/\w{16,})")
_ARGUMENT = re.compile(
    r"(?:(?<![A-Za-z])mysql(?:dump|admin)?\s[^\n]{0,80}?(?<=\s)-p|sshpass\s+-p\s*|"
    r"(?<![A-Za-z])curl\s[^\n]{0,120}?(?<=\s)-u\s*[^\s:]{1,64}:)(?P<value>[^\s'\"]{6,200})"
)
# Behind a space alone only what has letters and digits: `密码 reset` is a sentence.
_BARE = re.compile(
    r"(?:(?<![A-Za-z])(?:password|passwort|kennwort)|密码|口令)\s{0,2}[「“\"'`]?"
    r"(?P<value>(?=[!-~]{0,60}[A-Za-z])(?=[!-~]{0,60}[0-9])"
    r"[0-9A-Za-z][0-9A-Za-z!#$%&*+@^_~-]{7,200})",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"^[A-Za-z_][\w.]*[\[(]|^(?:self|config|args|cls|os|torch|np)\.|^[a-z]+(?:_[a-z]+)*_?\d{0,2}$"
    r"|^[\w.]+[=<>]=[^=]|^[\d_]+$"
)
"""A call, an index, an attribute, or a name in a program."""
_BEARER = re.compile(r"(?<![A-Za-z])Bearer\s{1,4}(?P<value>[0-9A-Za-z._~+/-]{16,400}=*)")
_KEY_FILE = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_IN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{0,64}:(?P<value>[^\s/@]{3,})@")
_CUED = re.compile(
    r"(?:(?<![A-Za-z])(?:(?:pass|pw)(?=[\"']?\s?[:=])|password|passwd|pwd|psk|passcode|passphrase|"
    r"secret|token|api[ _-]?key|access[ _-]?key|secret[ _-]?key|client[ _-]?secret|"
    r"account[ _-]?key|auth[ _-]?token|passwort|kennwort|zugangscode)"
    r"|密码|口令|密钥|令牌|授权码)"
    r"(?:\s?\w{2,8})??[\"']?\]?\s*(?:(?:was|is|are|ist|lautet|war|=>|:=|[:=]|是|为|设为|改成|改为)了?\s*)"
    r"[\"'`「“]?(?P<value>[0-9A-Za-z!-/:-@\[-`{-~]{6,200})",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"^[<{\[$%*]|(.)\1{4}|x{5,}|example|your[_-]|^your|changeme|change_me|redacted|placeholder|"
    r"\.\.\.|^(?:my)?(?:secret|password|token)[0-9]{0,3}$|^(?:https?|file|ssh)://|^[-/~]",
    re.IGNORECASE,
)
_QUOTED_END = "\"'`」”,.;:!?)]}"


_MAY_HOLD = re.compile(
    r"pass|pwd|pw\s?[:=]|psk|GOCSPX|ya29|dckr|dop_|mysql|curl|hooks\.slack|"
    r"kennwort|zugangscode|secret|token|key|密|口令|令牌|授权码|://|eyJ|xox|"
    r"AIza|[A-Z0-9]{16}|[_-][0-9A-Za-z_-]{10}|LTAI|:AA|SG\.|bearer",
    re.IGNORECASE,
)
_WORDS = (
    *("pass", "pwd", "psk", "gocspx", "ya29", "dckr", "dop_", "mysql", "curl", "hooks.slack"),
    *("kennwort", "zugangscode", "secret", "token", "key", "://", "eyj", "xox", "aiza", "ltai"),
    *(":aa", "sg.", "bearer"),
)
_ISSUERS = ("AKIA", "ASIA", "AROA", "AKID")
_LONG = re.compile(r"[_-][0-9A-Za-z_-]{10}")
_SHORT_CUE = re.compile(r"pw\s?[:=]")


def _may_hold(text: str) -> bool:
    if not text.isascii():
        return bool(_MAY_HOLD.search(text))
    # Words are found twenty times as fast as a pattern of all of them.
    lower = text.casefold()
    return (
        any(word in lower for word in _WORDS)
        or any(issuer in text for issuer in _ISSUERS)
        or (("-" in text or "_" in text) and bool(_LONG.search(text)))
        or ("pw" in lower and bool(_SHORT_CUE.search(lower)))
    )


def _find(text: str) -> Iterator[Span]:
    yield from spans(_KEY_FILE, text, "private key")
    yield from spans(_MARKS, text, "issuer's mark")
    yield from spans(_IN_ADDRESS, text, "password in an address")
    yield from spans(_HOOK, text, "issuer's mark")
    cued = (*spans(_CUED, text, "cue"), *spans(_BARE, text, "cue"))
    for span in (*cued, *spans(_BEARER, text, "bearer"), *spans(_ARGUMENT, text, "argument")):
        value = text[span.start : span.end].rstrip(_QUOTED_END)
        if _is_guarded(value):
            yield Span(span.start, span.start + len(value), span.rule)


def _is_guarded(value: str) -> bool:
    """Say whether a value looks like a secret, and not like the next word of a sentence."""
    kinds = sum(
        bool(re.search(signs, value)) for signs in ("[a-z]", "[A-Z]", "[0-9]", "[^0-9A-Za-z]")
    )
    has_digit = bool(re.search("[0-9]", value))
    return len(value) >= 6 and kinds >= 2 and has_digit and not _CODE.search(value)


def _is_reserved(value: str) -> bool:
    return bool(_PLACEHOLDER.search(value)) and not value.startswith("-----BEGIN")


KIND = Kind(
    name="secret",
    may_hold=_may_hold,
    find=_find,
    is_reserved=_is_reserved,
    normal=lambda value: value,
    lifelike=lambda draw: f"EXAMPLE-{draw.word(12)}",
)

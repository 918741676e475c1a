"""Text that was read in a wrong encoding: mended only where the way back is proved.

The proof is the round trip: the mended text, written in UTF-8 and read in the wrong encoding again,
is the broken text to the last character. Where bytes were lost on the way nobody can mend.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

_WESTERN = re.compile("[\u0080-\u00ff\u0152-\u017e\u02c6\u02dc\u2018-\u203a\u20ac\u2122]{2}")
"""What UTF-8 looks like, read as Latin-1 or Windows-1252."""
_HAN = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
# UTF-8 of Chinese, read as GBK: its three bytes begin with E4 to E9 or EF BC, so that these
# characters come again and again; in plain Chinese they are rare.
_AS_GBK = re.compile("[锛銆鐨涓鏄浣鍦鎴鍙鏈夋鍚浠鎵鎬璇璁缁杩闂鏁鎹绔绋鍣鍔ソ犲鈥闄濡傛灉杈鍏]")
_LOST = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯")
"""The sign for lost bytes; the same, read as GBK; and what Visual C++ fills memory with."""


def find_mojibake(text: str) -> tuple[str, str | None] | None:
    """Return the text as it was before it was read in a wrong encoding; None for plain text."""
    if text.isascii():
        return None
    if _WESTERN.search(text) and (mended := _as_latin(text)) != text:
        return "UTF-8 read as Latin-1", mended
    if len(_AS_GBK.findall(text)) >= 2 and (mended := _as_gbk(text)):
        return "UTF-8 read as GBK", mended
    return None


def find_lost(text: str) -> tuple[str, str | None] | None:
    """Say whether bytes were lost: that cannot be mended."""
    if text.isascii():
        return None
    if _LOST.search(text):
        return "lost bytes", None
    marks = _AS_GBK.findall(text)
    # 100 of 100 garbled sentences have three different marks or more, of 14,000 clean lines none.
    is_garbled = len(set(marks)) >= 3 and len(marks) * 5 >= len(_HAN.findall(text))
    return ("UTF-8 read as GBK, bytes lost", None) if is_garbled else None


def _as_latin(text: str) -> str:
    import ftfy

    mended = ftfy.fix_encoding(text, _only_encoding())
    return mended if "\ufffd" not in mended or "\ufffd" in text else text


@cache
def _only_encoding() -> "TextFixerConfig":
    """Return settings with everything off but the repair of the encoding.

    The defaults turn full-width Chinese punctuation into ASCII.
    """
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        fix_encoding=True,
        decode_inconsistent_utf8=True,
        unescape_html=False,
        remove_terminal_escapes=False,
        restore_byte_a0=False,
        replace_lossy_sequences=False,
        fix_c1_controls=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )


def _as_gbk(text: str) -> str:
    try:
        mended = text.encode("gbk").decode("utf-8")
    except UnicodeError:
        return ""
    # A text that GBK can write and UTF-8 can read is no accident if what comes out is Chinese.
    foreign = [sign for sign in mended if not sign.isascii() and not _HAN.match(sign)]
    return mended if _HAN.search(mended) and len(foreign) * 10 <= len(mended) else ""

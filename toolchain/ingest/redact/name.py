"""Names of persons, where a cue says that one comes: `姓名：`, `联系人`, `…先生`, `My name is`.

Names without a cue are not looked for, and every report says so: by a list of surnames alone one
word in twenty of plain Chinese would be a name.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from toolchain.ingest.redact.gazetteer import DOUBLE_SURNAMES, SURNAMES
from toolchain.ingest.redact.kind import LATIN, UPPER, Draw, Kind, Span

_HAN = "\u4e00-\u9fff"
_SURNAME = f"(?:{'|'.join(DOUBLE_SURNAMES)}|[{SURNAMES}])"
# Signs that stand behind a name much more often than in one.
_BEHIND = (
    "的了是在有和与及或已将会要想来去说问称向对把被给请让为于从到由住家今现我你他她它这那就都也还不没很"
    "电话手机身份证地址生年岁男女先士小您号联系以经办购买订收到需因反映投诉咨询出签申报入登退支付"
)
_GIVEN = rf"(?![吗呢吧啊么])[{_HAN}](?:(?![{_BEHIND}])[{_HAN}])?"
_CHINESE = rf"(?:{_SURNAME}{_GIVEN}|(?![是为叫])[{_HAN}]{{2,6}}·[{_HAN}]{{2,8}})"
_STRONG = re.compile(
    r"(?:姓名|名字|联系人|收件人|收货人|寄件人|发件人|申请人|经办人|负责人|投保人|被保险人|持卡人|开户人|户主|"
    r"法人|法定代表人|当事人|紧急联系人|客户名|用户名|患者|病人|客户|业主|租客|房东|学生|员工|签名|本人|业务员|快递员)"
    rf"(?:叫做|名叫|叫|姓名|名称|是|为)?\s?(?:[:：]\s?|(?<=叫)|(?<=姓名)|(?<=名字))(?P<value>{_CHINESE})"
)
# Here the name follows without a colon, so that only cues that nothing else follows are taken.
_PLAIN = re.compile(
    r"(?:姓名(?=\s)|我叫|名叫|叫做|我的名字是|名字叫|名字是|姓名是|姓名为|联系人是|联系人为|收件人是|收件人为|收货人是|联系人|"
    rf"收件人|收货人|寄件人|申请人|经办人|持卡人|投保人|户主|本人)\s?(?P<value>{_CHINESE})"
)
_TITLED = re.compile(
    rf"(?P<value>{_SURNAME}(?:[{_HAN}]{{1,2}}?)??)(?=先生|女士|小姐|太太)(?!(?:女士|先生)们)"
)
_USUAL = "王李张刘陈杨赵吴徐孙朱胡郭罗郑梁谢宋唐许邓冯韩曹彭潘董袁蒋杜魏吕沈姚卢姜崔谭廖汪陆"
_I_AM = re.compile(rf"我是(?P<value>[{_USUAL}][{_HAN}]{{1,2}})(?=[，,。.!！;；\s]|$)")
_PATIENT = re.compile(
    r"(?:患者|病人|客户|学员|会员|住户)(?!何时|何种|周围|周期|周末|黄疸|许多|谢谢|江边)"
    rf"(?P<value>[{_USUAL}周黄何林][{_HAN}]{{1,2}})(?=[，,。；;（(])"
)
# `谢谢老师`, `也许老师会`: two surnames are words of thanks and of doubt.
_PROFESSION = re.compile(
    rf"(?<![谢感多致也或允])(?P<value>[{_USUAL}周黄林何高马])(?=老师|医生|教授|律师|师傅|主任|经理)"
    rf"|(?<![{_HAN}])(?!谢谢|许多|马上|周末|何种|何时|唐代|宋代)(?P<whole>[{_USUAL}周黄林何高马]"
    rf"(?![中级等校])[{_HAN}]{{1,2}}?)(?=老师|医生|教授|律师|师傅)"
)
# `O'Neill`, `Smith-Jones`, `MÜLLER`: a name is replaced to its end, or the rest gives it away.
_PART = rf"[{UPPER}](?:['’-]?[{LATIN}])+"
_LATIN = (
    rf"[{UPPER}](?:['’-]?[{LATIN}]){{1,40}}(?: [{UPPER}]\.)?"
    r"(?: (?:[Dd]e|[Vv]an|[Vv]on|[Zz]u|[Dd]er|[Ll]a|[Aa]l|[Bb]in)(?= )){0,2}"
    rf"(?: {_PART}){{0,2}}"
)
_ENGLISH = re.compile(
    r"(?:(?<![A-Za-z])(?:[Mm]y name(?:'s| is|:)|[Nn]ame(?: is)?\s?:|[Cc]ontact(?: person)?:|"
    r"[Cc]ustomer:|[Pp]atient:|[Rr]ecipient:|[Ss]igned(?: by)?:?)|(?:姓名|联系人|收件人):)\s?"
    rf"(?P<value>{_LATIN})"
)
_SAID = re.compile(
    rf"(?<![A-Za-z])(?:I'm|I’m|I am)\s(?P<value>{_PART} {_PART}(?: {_PART})?)(?=\s?[,.;!\n]|$)"
    rf"|(?<![A-Za-z])[Tt]his is (?P<caller>{_PART} {_PART}(?: {_PART})?)"
    r"(?= (?:calling|speaking|from|here))"
)
_ENGLISH_TITLED = re.compile(rf"(?<![A-Za-z])(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof)\.?\s(?P<value>{_LATIN})")
_GERMAN = re.compile(
    r"(?:[Mm]ein Name ist|[Ii]ch hei(?:ß|ss)e|[Mm]it freundlichen Grüßen,?\s{1,3}|"
    r"(?<![A-Za-z])(?:Vorname|Nachname|Kundenname|Kunde|Kundin|Ansprechpartner(?:in)?|"
    r"Patient(?:in)?|Empfänger(?:in)?|Absender(?:in)?)\s?:)\s?"
    rf"(?P<value>{_LATIN})"
)
_GERMAN_TITLED = re.compile(
    rf"(?<![A-Za-z])(?:Herrn?|Frau)\s(?:(?:Dr|Prof)\.\s){{0,2}}(?P<value>{_LATIN})"
)
_LETTER = re.compile(
    rf"(?:^|\n)(?:Dear|Hi|Hello) (?P<value>{_LATIN}),|"
    rf"(?:[Rr]egards|[Ss]incerely|[Cc]heers|[Tt]hanks|"
    rf"(?:Gr(?:ü|ue)(?:ß|ss)en?|Gru(?:ß|ss)|(?<![A-Za-z])[LV]G))"
    rf"(?:,\s{{1,3}}|[ \t]*\n\s{{0,2}})(?P<signed>{_LATIN})\s*(?:\n|$)"
)


class _Rule(NamedTuple):
    """A pattern whose value is its last group that matched."""

    name: str
    pattern: re.Pattern[str]
    cues: tuple[str, ...] = ()
    """Of which a text in ASCII has one or the rule finds nothing in it; empty: it never does."""


_RULES = (
    _Rule("cue", _STRONG),
    _Rule("cue", _PLAIN),
    _Rule("title", _TITLED),
    _Rule("cue", _I_AM),
    _Rule("cue", _PATIENT),
    _Rule("cue", _ENGLISH, ("Name", "name", "ontact", "ustomer", "atient", "ecipient", "igned")),
    _Rule(
        "cue",
        _GERMAN,
        (
            "ein Name",
            "heisse",
            "orname",
            "achname",
            "Kund",
            "nsprechpartner",
            "Patient",
            "Absender",
        ),
    ),
    _Rule("title", _GERMAN_TITLED, ("Herr", "Frau")),
    _Rule("title", _ENGLISH_TITLED, ("Mr", "Ms", "Miss", "Mx", "Dr", "Prof")),
    _Rule(
        "letter",
        _LETTER,
        (
            *("Dear ", "Hi ", "Hello ", "egards", "incerely", "heers", "hanks"),
            *("Gruess", "Gruss", "LG", "VG"),
        ),
    ),
    _Rule("title", _PROFESSION),
    _Rule("cue", _SAID, ("I'm", "I am", "his is")),
)
_CUES = frozenset(cue for rule in _RULES for cue in rule.cues)
_NOBODYS = re.compile(
    r"某|(?:^|\s)Doe$|"
    r"^(?:Sir|Madam|All|Team|There|Customer|Support|Friend|Everyone|User|Name|Your|"
    r"Muster(?:mann|frau))\b|"
    r"\sMuster(?:mann|frau)$"
)
_MAY_HOLD = re.compile(
    r"[名人叫客户患者病学生员工业主房东租先女小太我签]|[Nn]ame|Mr|Ms|Dr|Prof|Miss|Mx|ontact|ustomer|"
    r"atient|ecipient|igned|Dear|H[ie]|egards|incerely|heers|hanks"
    r"|Herr|Frau|ein Name|I'm|I’m|I am|his is|Gr[uü]|[LV]G|老师|医|教授|律师|师傅|主任|经理"
    r"|hei[ßs]|Kund|[Pp]artner|Empf|Absender|freundlich|[Nn]achname|Vorname"
)
_STEMS = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"


def _find(text: str) -> Iterator[Span]:
    is_ascii = text.isascii()
    for rule in _RULES:
        if is_ascii and not any(cue in text for cue in rule.cues):
            continue
        for match in rule.pattern.finditer(text):
            yield Span(*match.span(match.lastgroup or 0), rule.name)


def _may_hold(text: str) -> bool:
    # Words are found twenty times as fast as a pattern of all of them.
    if text.isascii():
        return any(cue in text for cue in _CUES)
    return bool(_MAY_HOLD.search(text))


def _lifelike(draw: Draw) -> str:
    """Return a name that says that it is none (某: a certain), `Doe` for Latin ones."""
    if re.match(f"[{LATIN}]", draw.value):
        first = "".join(draw.of("bcdfghjklmnpqrstvwxyz", at) for at in range(5))
        return f"{first.capitalize()} Doe"
    return f"{draw.of('王李张刘陈杨赵黄周吴')}某{draw.of(_STEMS, 1)}"


KIND = Kind(
    name="name",
    may_hold=_may_hold,
    find=_find,
    is_reserved=lambda value: bool(_NOBODYS.search(value)),
    normal=lambda value: value.strip().casefold(),
    lifelike=_lifelike,
)

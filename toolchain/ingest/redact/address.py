"""Postal addresses: Chinese ones from the name of a place on, and English ones by their street.

On the left an address begins with a province or a city of the gazetteer, or right behind a cue; on
the right it ends with a number that a unit follows (号, 室, 座, …) and a postcode.
"""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.gazetteer import CITIES, PROVINCES
from toolchain.ingest.redact.kind import Draw, Kind, Span, spans

_HAN = "\u4e00-\u9fff"
# Words that stand in sentences and in no name of a place.
_NAME = f"[{_HAN}](?:(?![的了是在有和不我你他她很把被给请])[{_HAN}])"
# Atomic: a text of nothing but 路 would have a million ways to be cut into six parts.
_AREA = (
    rf"(?>{_NAME}{{0,9}}?(?:庄村|庄组|家村|里铺镇|里镇|里乡|自治州|自治县|特别行政区|街道|社区|小区|新区|工业园|科技园|产业园|开发区|园区|"
    r"高新区|公寓|大厦|广场|花园|家园|新村|新城|胡同|大街|大道|公路|国道|省|市|区|县|旗|镇|乡|村|屯|"
    r"庄|寨|苑|园|城|里|路|街|道|巷|弄|坊|府|湾)"
    # `花园路` is one name, not a `花园`.
    r"(?![路街道巷弄区县市镇乡]))"
)
_NUMBER = (
    r"(?:[0-9A-Za-z]{1,6}(?:[-#][0-9A-Za-z]{1,6}){0,3}"
    r"|[一二三四五六七八九十百零〇]{1,5}|[甲乙丙丁东西南北])"
)
_UNIT = (
    rf"(?:\s?{_NUMBER}\s?(?:号院|号楼|号线|塔|小区|单元|组团|号|栋|幢|座|楼|层|室|房|户|组|队|社|期|区|段|弄|巷)"
    rf"(?:(?<=号)(?:之|附)[0-9一二三四五六七八九十]{{1,2}}号?)?)"
)
_END = (
    rf"(?:[\s,，]?(?:{_UNIT}|(?:[A-Za-z]{{2,12}}\s?)?{_AREA}(?=\s?{_UNIT}))){{0,6}}"
    rf"(?>(?<=号){_NAME}{{0,7}}?(?:大厦|广场|花园|家园|小区|公寓|产业园|科技园|工业园|大学|中心|商城))?"
    r"(?:\s?\d{1,5}(?:-\d{1,5}){0,2}(?![0-9A-Za-z年月日点%℃度元]))?"
)
_POST = r"(?:[\s,，]{0,2}(?:邮编[:：]?\s?)?\d{6}(?![0-9A-Za-z]))?"
_LEFT = (
    f"(?:中国)?(?:(?:{'|'.join(sorted(PROVINCES, key=len, reverse=True))})"
    f"(?:(?:{'|'.join(CITIES)})市?)?|(?:{'|'.join(CITIES)})市?)"
)
_CHINESE = re.compile(rf"{_LEFT}\s?(?:{_AREA}[\s,，]?){{0,6}}{_UNIT}{_END}{_POST}")
_CUED = re.compile(
    r"(?:地址|住址|收货地|家住|住在|寄到|寄往|送到|送货到|户籍所在地|籍贯|位于)(?:是|为|在|[:：])?\s*"
    rf"(?P<value>(?!某)(?:{_LEFT})?\s?(?:{_AREA}[\s,，]?){{1,6}}{_UNIT}{_END}{_POST})"
)
_CUED_AREA = re.compile(
    rf"(?:地址|住址|收货地|家住|户籍所在地)(?:是|为|在|[:：])?\s*"
    rf"(?P<value>{_LEFT}(?:{_AREA}){{2,6}})(?=[\s,，。;；.!！]|$)"
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|"
    r"Terrace|Highway|Hwy|Parkway|Pkwy|Way|Close|Crescent|Circle|Trail)"
)
_GERMAN = re.compile(
    r"(?<![A-Za-zÀ-ɏ])(?!(?:D(?:er|ie|as|en|em|ieser?)|Eine?|Kein|Jeder|Im|Am|Auf|Vom|Zum|Ein) )"
    r"[A-ZÄÖÜ][A-Za-zÄÖÜäöüß.-]{1,30}(?:straße|strasse|str\.|weg|gasse|allee|platz|ring|"
    r"damm|ufer|(?<=[a-zß]) (?:Straße|Strasse|Str\.|Weg|Allee|Platz|Ring|Damm|Ufer|Gasse))"
    r"(?: |(?<=\.))\d{1,4} ?[a-z]?(?:-\d{1,4})?(?![0-9A-Za-z])"
    r"(?:,?\s(?:[AD]-)?\d{4,5} [A-ZÄÖÜ][a-zäöüß]+(?:[ -](?:am |an der )?[A-ZÄÖÜ][a-zäöüß]+)?)?"
)
_PINYIN = (
    r"(?:Beijing|Shanghai|Guangzhou|Shenzhen|Tianjin|Chongqing|Chengdu|Hangzhou|Wuhan|Nanjing|"
    r"Suzhou|Xi'?an|Qingdao|Dalian|Xiamen|Changsha|Zhengzhou|Shenyang|Jinan|"
    r"Kunming|Harbin|Hefei|Fuzhou)"
)
_ROOM = (
    r"(?:(?:Room|Rm\.?|Unit|Flat|Apt\.?|Suite) ?[0-9A-Z]{1,6},? )?"
    r"(?:(?:Building|Bldg\.?|Block|Tower) ?[0-9A-Z]{1,4},? )?(?:No\. ?)?"
)
_ZIP = r"[A-Z]{2},? \d{5}(?:-\d{4})?|[A-Z]{1,2}\d[0-9A-Z]? ?\d[A-Z]{2}"
_WORD = r"[A-Z][a-z'.]+"
_ENGLISH = re.compile(
    rf"(?<![0-9A-Za-z.,-]){_ROOM}(?<![0-9A-Za-z])\d{{1,6}}[A-Za-z]?,? (?:[NSEW]\.? )?"
    rf"(?:{_WORD} |\d{{1,3}}(?:st|nd|rd|th) ){{1,4}}"
    rf"{_STREET}(?![0-9A-Za-z])\.?(?: (?:[NS][EW]|[NSEW])(?![0-9A-Za-z]))?"
    r"(?:,? (?:Apt|Suite|Unit|Floor|Flat|#)\.? ?[0-9A-Za-z]+)?"
    rf"(?:,? {_WORD}(?: {_WORD}){{0,2}}(?=,? (?:{_ZIP})(?![0-9A-Za-z])))?"
    rf"(?:,? (?:{_ZIP})(?![0-9A-Za-z]))?"
    # As Chinese ones are written in English: from the room to the country's six digits.
    rf"(?:,? {_WORD}(?: {_WORD}){{0,2}} (?:District|County|Town))?"
    rf"(?:,? {_PINYIN}(?: City)?)?(?: ?,? ?\d{{6}}(?![0-9A-Za-z]))?"
)
_BOX = re.compile(
    rf"(?<![A-Za-z])P\.? ?O\.? Box \d{{1,6}}(?:,? {_WORD}(?: {_WORD}){{0,2}},? (?:{_ZIP}))?"
    rf"(?![0-9A-Za-z])"
)
_CAPITAL = "[A-ZÄÖÜ][A-Za-zäöüß.-]{1,30}"
_POSTCODE = re.compile(
    # In German: a name of a street, a number, five digits and a place. `Im Jahr 2020, 10000
    # Menschen` is none: numbers of houses are shorter, and no postcode ends in three zeros.
    rf"(?<![A-Za-zÀ-ɏ]){_CAPITAL}(?: (?:de[nmrs]|am|an|im|in|auf|zu[mr]|bei|von|{_CAPITAL})){{0,3}}"
    r" \d{1,3} ?[a-z]?"
    r"(?:-\d{1,3})?,\s(?:D-)?(?!\d\d000)\d{5} [A-ZÄÖÜ][a-zäöüß]{2,}"
    r"(?: am [A-ZÄÖÜ][a-zäöüß]+)?"
)
_AMERICAN = re.compile(
    rf"(?<![0-9A-Za-z.,-])\d{{1,6}}[A-Za-z]? (?:{_WORD} ){{0,3}}{_WORD}"
    r"(?: (?:Apt|Suite|Unit)\.? [0-9A-Za-z]+)?"
    rf"(?:, |\n){_WORD}(?: {_WORD}){{0,2}}, (?:{_ZIP})(?![0-9A-Za-z])"
)


def _find(text: str) -> Iterator[Span]:
    if not text.isascii():
        yield from spans(_CUED, text, "cue")
        yield from spans(_CHINESE, text, "place and number")
        yield from spans(_CUED_AREA, text, "cue")
    yield from spans(_POSTCODE, text, "street and postcode")
    yield from spans(_BOX, text, "box")
    yield from spans(_GERMAN, text, "German street")
    yield from spans(_AMERICAN, text, "street and ZIP")
    yield from spans(_ENGLISH, text, "street")


def _lifelike(draw: Draw) -> str:
    """Return an address in a city whose name says that it is none (某: a certain)."""
    return f"某市某区某路{draw.of([str(each) for each in range(1, 1000)])}号"


KIND = Kind(
    name="address",
    needs_digit=True,
    may_hold=re.compile(
        r"[号栋幢座楼层室房户组队社期区弄巷]|地址|住址|籍|Box|[a-zß] \d|\. ?\d|\d [A-Z]"
        r"|\d[A-Za-z],? [A-Z]"
    ).search,
    find=_find,
    is_reserved=lambda value: "某" in value,
    normal=lambda value: re.sub(r"[\s,，]", "", value).casefold(),
    lifelike=_lifelike,
)

"""Personal data of nobody in the formats in which people really write it, made by a script.

`planted` tries the rules where Chinese characters touch a value; here the formats are many: groups,
brackets, full-width signs, line ends, cues. `half` parts the formats in two: rules were mended by
the first half alone, and the second says how far that carries.
"""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stdnum import iban, luhn
from stdnum.cn import ric

COUNT = 120
"""Values of a kind, in each half."""
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_CONTEXTS = (
    "请登记{}谢谢",
    "客户说{}已经处理了。",
    "系统里查到：{}，请核对",
    "（{}）",
    "please check {} for me",
    "It is {}, thanks.",
    "Kunde hat {} angegeben.",
    "| 12 | {} | open |",
    '{{"note": "{}"}}',
    "{}",
)
"""What stands beside a value whose format needs no cue."""
Draw = random.Random
Maker = Callable[[Draw], str]


@dataclass(frozen=True, slots=True)
class Written:
    """A sentence, the value in it, and the format that it was written in."""

    kind: str
    text: str
    value: str
    format: str


def written(kind: str, half: int, seed: int = 0) -> Iterator[Written]:
    """Yield sentences with values of a kind, in every second of its formats."""
    draw = random.Random(f"{kind} {half} {seed}")
    formats = FORMATS[kind][half::2]
    for number in range(COUNT):
        form = formats[number % len(formats)]
        has_cue = "⟦" in form
        before, _, rest = form.partition("⟦") if has_cue else ("", "", form)
        inside, _, behind = rest.partition("⟧")
        value = _filled(draw, inside)
        context = "{}" if has_cue else draw.choice(_CONTEXTS)
        if "\n" in value and '"note"' in context:
            context = "{}"
        text = context.format(before + value + behind)
        yield Written(kind, text, value, form)


def _filled(draw: Draw, form: str) -> str:
    """Return a format with a drawn value: `#` is a digit, `@name` one of the makers."""
    form = "".join(draw.choice("23456789") if sign == "#" else sign for sign in form)
    for name, make in _MAKERS.items():
        while f"@{name}" in form:
            form = form.replace(f"@{name}", make(draw), 1)
    return form


def _grouped(number: str, sizes: Sequence[int], sign: str) -> str:
    groups, at = [], 0
    for size in sizes:
        groups.append(number[at : at + size])
        at += size
    return sign.join(groups)


def _by_four(number: str, sign: str) -> str:
    return sign.join(number[at : at + 4] for at in range(0, len(number), 4))


def _card(draw: Draw, prefix: str = "4", length: int = 16) -> str:
    first = prefix + "".join(draw.choices(string.digits, k=length - len(prefix) - 1))
    return str(first + luhn.calc_check_digit(first))


def _ric(draw: Draw) -> str:
    while True:
        region = draw.choice(("110101", "310104", "440305", "330106", "510104"))
        born = f"{draw.randint(1945, 2015)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
        first = region + born + "".join(draw.choices(string.digits, k=3))
        number = first + ric.calc_check_digit(first + "0")
        if ric.is_valid(number):
            return str(number)


def _ric_x(draw: Draw) -> str:
    while True:
        number = _ric(draw)
        if number.endswith("X"):
            return number


_IBANS = (("DE", "##################"), ("AT", "################"), ("GB", "NWBK##############"))
_IBANS += (("FR", "##########0001#M02606"[:21] + "##"), ("CH", "#################"))
_IBANS += (("NL", "ABNA##########"), ("ES", "####################"))


def _iban(draw: Draw) -> str:
    while True:
        country, body = draw.choice(_IBANS)
        body = "".join(draw.choice(string.digits) if sign == "#" else sign for sign in body)
        number = f"{country}{iban.calc_check_digits(f'{country}00{body}')}{body}"
        if iban.is_valid(number, check_country=False):
            return str(number)


def _mobile(draw: Draw) -> str:
    starts = "130 135 138 139 147 150 158 166 176 177 180 186 189 191 199"
    return draw.choice(starts.split()) + "".join(draw.choices("123456789", k=8))


def _ipv4(draw: Draw) -> str:
    first = draw.choice((36, 58, 101, 121, 183, 218, 80, 91))
    return f"{first}." + ".".join(str(draw.randint(1, 254)) for _ in range(3))


def _hex4(draw: Draw) -> str:
    return f"{draw.randrange(0x1000, 0xFFFF):x}"


def _mixed(draw: Draw, count: int = 20) -> str:
    signs = draw.choices(string.ascii_letters + string.digits, k=count - 2)
    return "a7" + "".join(signs)


_MAKERS: dict[str, Maker] = {
    "wide_mobile": lambda draw: _mobile(draw).translate(_WIDE),
    "wide_card": lambda draw: _card(draw).translate(_WIDE),
    "wide_ric": lambda draw: _ric(draw).translate(_WIDE),
    "wide_ip": lambda draw: _ipv4(draw).translate(_WIDE),
    "mobile334": lambda draw: _grouped(_mobile(draw), (3, 3, 5), " "),
    "mobile344 ": lambda draw: _grouped(_mobile(draw), (3, 4, 4), " "),
    "mobile344-": lambda draw: _grouped(_mobile(draw), (3, 4, 4), "-"),
    "mobile344.": lambda draw: _grouped(_mobile(draw), (3, 4, 4), "."),
    "mobile344/": lambda draw: _grouped(_mobile(draw), (3, 4, 4), "/"),
    "mobile344_": lambda draw: _grouped(_mobile(draw), (3, 4, 4), "_"),
    "mobile38": lambda draw: _grouped(_mobile(draw), (3, 8), " "),
    "mobile74": lambda draw: _grouped(_mobile(draw), (7, 4), " "),
    "mobile56": lambda draw: _grouped(_mobile(draw), (5, 6), " "),
    "mobile": _mobile,
    "visa ": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), " "),
    "visa-": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "-"),
    "visa–": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "–"),
    "visa.": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "."),
    "visa/": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "/"),
    "visa_": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "_"),
    "visa·": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "·"),
    "visa  ": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "  "),
    "visa8": lambda draw: _grouped(_card(draw), (8, 8), " "),
    "visa - ": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), " - "),
    "visa\n": lambda draw: _grouped(_card(draw), (4, 4, 4, 4), "\n"),
    "visa": _card,
    "master": lambda draw: _grouped(_card(draw, "52"), (4, 4, 4, 4), draw.choice(" -")),
    "amex": lambda draw: _grouped(_card(draw, "37", 15), (4, 6, 5), draw.choice(" -")),
    "union19 ": lambda draw: _grouped(_card(draw, "622202", 19), (4, 4, 4, 4, 3), " "),
    "union19-": lambda draw: _grouped(_card(draw, "621700", 19), (4, 4, 4, 4, 3), "-"),
    "union613": lambda draw: _grouped(_card(draw, "622848", 19), (6, 13), " "),
    "union64": lambda draw: _grouped(_card(draw, "622848", 19), (6, 4, 4, 5), " "),
    "union": lambda draw: _card(draw, "621661", 19),
    "iban ": lambda draw: _by_four(_iban(draw), " "),
    "iban-": lambda draw: _by_four(_iban(draw), "-"),
    "iban_low": lambda draw: _by_four(_iban(draw).lower(), " "),
    "iban": _iban,
    "ric_wide_x": lambda draw: _ric_x(draw)[:-1] + "Ｘ",
    "ric_x": _ric_x,
    "ric_low": lambda draw: _ric_x(draw).lower(),
    "ric684 ": lambda draw: _grouped(_ric(draw), (6, 8, 4), " "),
    "ric684-": lambda draw: _grouped(_ric(draw), (6, 8, 4), "-"),
    "ric6444": lambda draw: _grouped(_ric(draw), (6, 4, 4, 4), " "),
    "ric3348": lambda draw: _grouped(_ric(draw), (3, 3, 8, 4), " "),
    "ric4": lambda draw: _grouped(_ric(draw), (4, 4, 4, 4, 2), " "),
    "ric": _ric,
    "ip": _ipv4,
    "hash": lambda draw: "#",
    "host": lambda draw: "qq.com",
    "idn": lambda draw: "xn--mller-kva",
    "hex4": _hex4,
    "mixed": _mixed,
    "CAPS": lambda draw: draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ"),
    "word": lambda draw: "".join(draw.choices("bcdfghklmnprst", k=4)) + draw.choice("aeiou"),
}


FORMATS: dict[str, tuple[str, ...]] = {
    "phone": (
        "+86 @mobile344 ",
        "+86 @mobile344-",
        "+86-@mobile",
        "(+86)@mobile",
        "（+86）@mobile344 ",
        "0086 @mobile344-",
        "0086@mobile",
        "86 @mobile",
        "@mobile344 ",
        "@mobile334",
        "@mobile344.",
        "@mobile38",
        "@mobile74",
        "@mobile344/",
        "@mobile344_",
        "@mobile56",
        "@wide_mobile",
        "＋86 @wide_mobile",
        "电话⟦@mobile⟧找我",
        "手机号：⟦@mobile344 ⟧。",
        "微信同号⟦@mobile⟧",
        "tel:⟦+86@mobile⟧",
        "021-6#######",
        "021 6### ####",
        "（021）6#######",
        "(021) 6###-####",
        "0512-6### ####",
        "0512-6#######-801#",
        "0755—8#######",
        "86-10-6#######",
        "+86 (0)21 6### ####",
        "+86 (21) 6### ####",
        "+86 755 8### ####",
        "0571-8#######转80##",
        "0571-8####### ext. 21#",
        "座机：⟦6#######⟧",
        "400 8## ####",
        "400-8###-###",
        "+852 9### ####",
        "+852-9#######",
        "+886 912 ### ###",
        "+853 66## ####",
        "+1 (415) 2##-####",
        "+1 415 2## ####",
        "+14152######",
        "1-415-2##-####",
        "415-2##-####",
        "415.2##.####",
        "(415)2##-####",
        "(415) 2## ####",
        "call me at ⟦415 2## ####⟧ please",
        "phone ⟦4152######⟧",
        "415-2##-#### x12#",
        "415-2##-#### ext. 4#",
        "+44 7911 ######",
        "+44 (0)20 7### ####",
        "ring me on ⟦07911 ######⟧",
        "my mobile is ⟦07911 ### ###⟧",
        "phone: ⟦020 7### ####⟧",
        "my number is ⟦07911######⟧",
        "+49 151 2#######",
        "+49 (0)30 ######",
        "0151 2#######",
        "0171/2######",
        "Tel. ⟦030 / 12 34 5#⟧",
        "Tel.: ⟦030/2345-67#⟧",
        "Telefonnummer: ⟦089 2345###⟧",
        "erreichbar unter ⟦0221 2345##⟧",
        "+33 6 12 34 5# ##",
        "+33 (0)6 12 34 5# ##",
        "tél. ⟦06 12 34 5# ##⟧",
        "+34 612 ### ###",
        "+39 347 ### ####",
        "+91 98765 4####",
        "+91-98765-4####",
        "+7 (912) 345-##-##",
        "+81 90-2###-####",
        "+82 10-2###-####",
        "+61 412 ### ###",
        "+55 11 9####-####",
        "+971 50 ### ####",
        "WhatsApp ⟦+60 12-### ####⟧",
    ),
    "card": (
        "@visa",
        "@visa ",
        "@visa-",
        "@visa–",
        "@visa.",
        "@visa/",
        "@visa_",
        "@visa·",
        "@visa  ",
        "@visa8",
        "@visa - ",
        "@visa\n",
        "@master",
        "@amex",
        "@union19 ",
        "@union19-",
        "@union613",
        "@union64",
        "@union",
        "@wide_card",
        "卡号⟦@visa⟧尾号",
        "card no. ⟦@visa ⟧ exp 04/29",
        "Karte: ⟦@visa-⟧",
        "银行卡⟦@union⟧，工商银行",
        "@iban ",
        "@iban",
        "@iban-",
        "@iban_low",
        "IBAN ⟦@iban ⟧",
        "IBAN: ⟦@iban⟧ BIC",
        "账号⟦@iban⟧收款",
        "mein Konto ⟦@iban ⟧ bei",
    ),
    "cn_id": (
        "@ric",
        "@ric_x",
        "@ric_low",
        "@wide_ric",
        "@ric_wide_x",
        "@ric684 ",
        "@ric684-",
        "@ric6444",
        "@ric3348",
        "@ric4",
        "身份证号码：⟦@ric⟧",
        "身份证⟦@ric_x⟧丢了",
        "ID ⟦@ric⟧",
        "本人⟦@ric_x⟧",
        "id_card=⟦@ric⟧&x=1",
        "身份证号⟦11010149030712#⟧",
        "护照⟦E########⟧",
        "护照号码：⟦EA#######⟧",
        "passport no. ⟦G########⟧",
        "passport number is ⟦E########⟧",
        "港澳通行证⟦C########⟧",
        "往来港澳通行证号码 ⟦C########⟧",
        "台胞证⟦########⟧",
        "回乡证号：⟦H########⟧",
    ),
    "email": (
        "@word.@word@gmail.com",
        "@word+shop@gmail.com",
        "@word+a.b-c@mail.firma.co.uk",
        "@word@mail.dept.uni-koeln.de",
        "@word_@word@163.com",
        "##########@qq.com",
        "@word-@word@firma-gmbh.de",
        "@CAPS@word@GMAIL.COM",
        "@word＠qq.com",
        "@word＠ｑｑ．ｃｏｍ",
        "邮箱⟦@word#@163.com⟧密码",
        "mailto:⟦@word@web.de⟧?subject=Hi",
        "<⟦@word@gmx.net⟧>",
        '"⟦@word@gmx.net⟧";',
        "@word@firma.museum",
        "@word.o'neil@firma.ie",
        "@word%40gmail.com",
        "@word@gmail.com.",
        "@word [at] gmail [dot] com",
        "@word(at)gmail.com",
        "@word at gmail dot com",
        "@word AT gmail DOT com",
        "@word @ gmail . com",
        "@word @gmail.com",
        "@word艾特qq点com",
        "@word@hash@host",
        "@word@qq。com",
        "@word at firma.de",
        "E-Mail ⟦jürgen.@word@firma.de⟧",
        "@word@müller-bau.de",
        "@word{at}firma{dot}de",
        "@word@@idn.de",
    ),
    "ip": (
        "@ip",
        "⟦@ip⟧:8080",
        "⟦@ip⟧/24",
        "http://⟦@ip⟧/admin",
        "IP：⟦@ip⟧。",
        "from ⟦@ip⟧ port 22",
        "[⟦@ip⟧]",
        "@wide_ip",
        "ip=⟦@ip⟧&a=1",
        "地址⟦@ip⟧无法访问",
        "2408:8207:1851:6c10:@hex4:@hex4:@hex4:@hex4",
        "2408:8207:@hex4::1",
        "2408:8207::@hex4:@hex4",
        "2A02:8109:9A40::@hex4",
        "[⟦2a02:8109:@hex4::2⟧]:443",
        "⟦2a02:8109:@hex4::⟧/48",
        "IPv6：⟦2408:8207:@hex4::1⟧。",
        "地址⟦240e:@hex4:@hex4::5⟧无法访问",
        "⟦2a02:8109:@hex4:@hex4:@hex4:@hex4:@hex4:@hex4⟧%eth0",
        "2408:8207:@hex4:0:0:0:0:1",
        "::ffff:⟦@ip⟧",
        "client ⟦240e::@hex4⟧, server",
        "ping6 ⟦2a02:8109::@hex4⟧",
        "http://[⟦2408:8207:@hex4::9⟧]/",
    ),
    "plate": (
        "京A9####",
        "京A·9####",
        "京A-9####",
        "京A 9####",
        "京 A9####",
        "京 A 9####",
        "粤B·D9####",
        "粤BF9####",
        "粤B D9####",
        "沪C9###K",
        "沪C·9###K",
        "京a9###k",
        "京Ａ９###Ｋ",
        "京A-9#-###",
        "粤Z12##港",
        "京A12##警",
        "川A12##挂",
        "WJ京12###",
        "车牌号：⟦苏E9A##B⟧，黑色",
        "车牌⟦浙AB9###⟧停在门口",
        "京A•9####",
        "京A.9####",
        "【⟦粤B9####⟧】",
        "使01####",
        "license plate ⟦7ABC12#⟧",
        "number plate ⟦AB1# CDE⟧",
        "Kennzeichen ⟦B-MW 12#⟧",
        "Kennzeichen: ⟦M-AB 12##⟧",
    ),
    "address": (
        "北京市朝阳区建国路#8号SOHO现代城A座120#",
        "上海市静安区南京西路12##号恒隆广场2期3#楼",
        "广东省深圳市南山区科技园高新南一道00#号创维大厦A座",
        "浙江省杭州市余杭区文一西路9##号",
        "成都市高新区天府三街1##号太平洋保险金融大厦A区10楼",
        "江苏省南京市鼓楼区汉口路2#号",
        "山东省青岛市崂山区松岭路2##号",
        "河北省石家庄市裕华区槐安东路1##号恒大城3号楼2单元180#",
        "湖南省长沙市长沙县黄兴镇黄兴村#组",
        "安徽省阜阳市颍上县十八里铺镇张庄村李庄组1#号",
        "重庆市渝北区龙溪街道新溉大道1##号2幢3-#",
        "收货地址：⟦海淀区中关村南大街#号⟧",
        "家住⟦朝阳区望京西园四区4##楼1单元20#⟧",
        "地址 ⟦徐汇区漕溪北路3##弄#号60#室⟧",
        "寄到⟦武汉市洪山区珞喻路10##号⟧吧",
        "广州市天河区体育东路1#8号 财富广场 西塔 12#3",
        "天津市 和平区 南京路 1#9号",
        "陕西省西安市雁塔区科技路#0号金桥国际广场C座11层",
        "辽宁省大连市甘井子区凌工路#号",
        "福建省厦门市思明区软件园二期望海路#9号楼",
        "新疆乌鲁木齐市天山区解放北路2##号",
        "香港九龙旺角弥敦道6##号",
        "台北市信义区信义路五段#号",
        "云南省昆明市盘龙区北京路9##号附2号",
        "北京市海淀区上地十街#号，100085",
        "苏州工业园区星湖街3##号创意产业园",
        "北京海淀区清华东路3#号",
        "深圳南山区粤海街道科苑路1#号",
        "221B Baker Street, London NW1 6XE",
        "350 Fifth Avenue, New York, NY 101##",
        "16## Pennsylvania Ave NW, Washington, DC 20500",
        "Flat #, 12 Oak Road, Leeds LS1 4DY",
        "4# Elm Rd",
        "77 W 12th St, New York, NY 10011",
        "PO Box 12##, Springfield, IL 62701",
        "12## N. Main St., Apt 4B, Dayton, OH 45402",
        "No. #8 Jianguo Road, Chaoyang District, Beijing 100022",
        "Room 120#, Building A, 88 Jianguo Road, Chaoyang District, Beijing",
        "Musterweg 1#, 10115 Berlin",
        "Hauptstraße 1#a, 80331 München",
        "Lindenallee #, 50968 Köln",
        "Unter den Linden #, 10117 Berlin",
        "Am Markt #, 99423 Weimar",
        "Goethestr. 1#, D-60313 Frankfurt am Main",
        "Lange Reihe 5#, 20099 Hamburg",
        "Bahnhofstr.#, 70173 Stuttgart",
        "Kärntner Ring 1#, 1010 Wien",
    ),
    "secret": (
        "密码：⟦abc1@mixed⟧",
        "密码是⟦Abc12@mixed⟧",
        "密码 ⟦Xy9@mixed⟧",
        "密码改成了⟦Kq7@mixed⟧",
        "登录密码为「⟦Kq7@mixed⟧」",
        "wifi密码⟦Kq7@mixed⟧",
        "口令：⟦Kq7@mixed⟧",
        "密钥=⟦@mixed⟧",
        "password: ⟦Tr0ub4dor&3⟧",
        "Password is ⟦S0mmer-24!⟧",
        "my password is ⟦Kq7@mixed⟧ ok",
        "pw: ⟦Kq7@mixed⟧",
        "pass=⟦Kq7@mixed⟧",
        "PASSWORD='⟦Kq7@mixed⟧'",
        '{"password": "⟦Kq7@mixed⟧"}',
        "passwort lautet ⟦Sommer2024!⟧",
        "Passwort: ⟦Kq7@mixed⟧",
        "mein Kennwort ⟦Kq7@mixed⟧",
        "api_key=⟦@mixed@mixed⟧",
        "API key: ⟦@mixed@mixed⟧",
        "SECRET_KEY = '⟦@mixed@mixed⟧'",
        "DB_PASSWORD=⟦Kq7@mixed⟧",
        "Authorization: Bearer ⟦@mixed@mixed⟧",
        "token：⟦ghp_@mixed@mixed⟧",
        "ghp_@mixed@mixed",
        "sk-@mixed@mixed",
        "sk-proj-@mixed@mixed",
        "glpat-@mixed",
        "AKIA2345ABCDEFGH#ABC",
        "AWS_SECRET_ACCESS_KEY=⟦@mixed@mixed⟧",
        "postgres://app:⟦Kq7@mixed⟧@db/x",
        "https://admin:⟦Kq7@mixed⟧@host/x",
        "mysql -u root -p⟦Kq7@mixed⟧ shop",
        "curl -u admin:⟦Kq7@mixed⟧ https://host",
        "sshpass -p ⟦Kq7@mixed⟧ ssh",
        "GOCSPX-@mixed",
        "AccountKey=⟦@mixed@mixed@mixed@mixed==⟧;",
        "dckr_pat_@mixed",
        "xoxb-23456789012-@mixed",
        "ya29.@mixed@mixed",
        "https://hooks.slack.com/services/⟦T2345ABCD/B2345ABCD/@mixed⟧",
        "sk-or-v1-@mixed@mixed",
        "psk=⟦Kq7@mixed⟧",
        "X-Api-Key: ⟦@mixed@mixed⟧",
    ),
    "name": (
        "姓名：⟦王小明⟧，",
        "姓名 ⟦赵丽华⟧ 电话",
        "我叫⟦刘伟⟧，想问",
        "我叫⟦欧阳娜娜⟧。",
        "我是⟦陈建国⟧，订单",
        "本人⟦李秀英⟧，申请",
        "收件人：⟦张伟⟧ 请",
        "收货人⟦周杰⟧，",
        "联系人是⟦孙丽⟧。",
        "⟦马⟧先生您好",
        "请⟦黄晓东⟧先生接电话",
        "找⟦吴敏⟧女士",
        "⟦林⟧小姐说",
        "客户：⟦郑凯⟧",
        "客户姓名：⟦冯媛媛⟧",
        "患者⟦何平⟧，男",
        "持卡人：⟦宋佳⟧",
        "经理⟦唐建⟧批准",
        "⟦高翔⟧老师",
        "⟦谢⟧医生",
        "我的名字是⟦阿依古丽·买买提⟧。",
        "签名：⟦曹雪⟧",
        "My name is ⟦Ada Lovelace⟧.",
        "my name's ⟦Tom O'Brien⟧ and",
        "I'm ⟦Sarah Connor⟧, order 12",
        "I am ⟦Peter Parker⟧.",
        "This is ⟦John Miller⟧ calling",
        "Name: ⟦Maria Garcia-Lopez⟧",
        "Full name: ⟦Wei Zhang⟧",
        "Mr. ⟦Smith⟧ called",
        "Mrs ⟦Jane van der Berg⟧ called",
        "Dr. ⟦Emily Chen⟧ said",
        "Dear Mr ⟦Jones⟧,",
        "Dear ⟦Hannah⟧,\nyour order",
        "Best regards,\n⟦Lukas Weber⟧",
        "Kind regards\n⟦Anna Smith⟧",
        "Ich heiße ⟦Jürgen Müller⟧.",
        "Mein Name ist ⟦Sabine Groß⟧.",
        "Herr ⟦Schmidt⟧ hat",
        "Frau Dr. ⟦Weiß⟧ hat",
        "Sehr geehrte Frau ⟦Köhler⟧,",
        "Viele Grüße\n⟦Klaus Becker⟧",
        "Customer: ⟦Bob Stone⟧",
        "signed by ⟦Carol Danvers⟧",
        "Ansprechpartner: ⟦Uwe Krause⟧",
        "ask for Ms. ⟦Lee⟧ at",
    ),
}
"""Formats of each kind: `⟦…⟧` is the value where a cue stands before it."""

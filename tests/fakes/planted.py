"""Sentences with personal data that nobody has, made by a script: what a redactor must find.

Check digits are computed by python-stdnum, names and addresses are drawn by faker: neither shares
code with the rules that are tried.
"""

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faker import Faker
from stdnum import luhn
from stdnum.cn import ric

COUNT = 150
"""Values of a kind."""
CARRIERS = {
    "both sides": ("请登记{}谢谢", "客服说{}已经处理了", "系统里{}查不到怎么办"),
    "left": ("我的信息{}, please", "这里填{} ok?", "联系一下{}."),
    "right": ("{}是我的", "{}能用吗", "ok, {}请核对"),
    "neither": ("please check {} for me", "It is {}, thanks.", "ref: {} (mine)"),
    "full stop": ("记录如下：{}。", "（{}）", "「{}」"),
}
"""What stands beside a value: Chinese characters glued to it on one side, on both, on none."""
MOBILES = "130 131 135 138 139 147 150 151 158 159 166 170 176 177 180 185 186 188 189 191 198 199"
REGIONS = "110101 310104 440305 330106 510104 420106 610113 370202 320583"


@dataclass(frozen=True, slots=True)
class Planted:
    """A sentence and the value in it."""

    kind: str
    text: str
    value: str
    carrier: str


def planted(kind: str, seed: int = 0) -> Iterator[Planted]:
    """Yield sentences with values of a kind, as many of each carrier."""
    draw, fake = random.Random(f"{kind}{seed}"), {}
    for language in ("zh_CN", "en_US"):
        fake[language] = Faker(language)
        fake[language].seed_instance(seed)
    for number in range(COUNT):
        carrier = list(CARRIERS)[number % len(CARRIERS)]
        if kind == "name":
            before, value, behind = _name(draw, fake)
            yield Planted(kind, f"{before}{value}{behind}", value, carrier)
        else:
            value = MAKERS[kind](draw, fake)
            yield Planted(kind, draw.choice(CARRIERS[carrier]).format(value), value, carrier)


Fakes = dict[str, Faker]


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


def _cn_id(draw: random.Random, fake: Fakes) -> str:
    born = f"{draw.randint(1940, 2020)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    first = draw.choice(REGIONS.split()) + born + _digits(draw, 3)
    number = first + ric.calc_check_digit(first + "0")
    if not ric.is_valid(number):  # a region that was not one yet
        return _cn_id(draw, fake)
    shape = draw.randrange(4)
    if shape == 1:
        return number.lower()
    return f"{number[:6]} {number[6:14]} {number[14:]}" if shape == 2 else number


def _phone(draw: random.Random, fake: Fakes) -> str:
    mobile = draw.choice(MOBILES.split()) + _digits(draw, 7) + draw.choice("123456789")
    landline = draw.choice("2345678") + _digits(draw, 6) + draw.choice("123456789")
    return draw.choice(
        (
            mobile,
            mobile,
            f"+86{mobile}",
            f"+86 {mobile}",
            f"86-{mobile}",
            f"{mobile[:3]}-{mobile[3:7]}-{mobile[7:]}",
            f"{mobile[:3]} {mobile[3:7]} {mobile[7:]}",
            mobile.translate({ord(d): ord(d) + 0xFEE0 for d in string.digits}),
            f"010-{landline}",
            f"(021){landline}",
            f"0755-{landline}",
            f"0571 {landline}",
            f"400-{_digits(draw, 3)}-{draw.randint(1000, 9999)}",
            f"+1 415 {draw.randint(201, 554)} {draw.randint(1000, 9999)}",
            f"(212) {draw.randint(201, 554)}-{draw.randint(1000, 9999)}",
            f"+44 20 {draw.randint(7000, 7999)} {draw.randint(1000, 9999)}",
        )
    )


def _card(draw: random.Random, fake: Fakes) -> str:
    prefix, length = draw.choice(
        (
            *(("4", 16), ("51", 16), ("55", 16), ("2223", 16), ("34", 15), ("37", 15)),
            *(("622202", 19), ("62", 16), ("621700", 19), ("3530", 16), ("6011", 16)),
        )
    )
    first = prefix + _digits(draw, length - len(prefix) - 1)
    number = first + luhn.calc_check_digit(first)
    assert luhn.is_valid(number)
    sign = draw.choice(("", "", " ", "-"))
    if length == 15:
        return sign.join((number[:4], number[4:10], number[10:]))
    return sign.join(number[at : at + 4] for at in range(0, length, 4))


def _plate(draw: random.Random, fake: Fakes) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    serial = _digits(draw, 4) + draw.choice(letters)
    if draw.random() < 0.3:
        serial = draw.choice("DF") + _digits(draw, 5)
    if draw.random() < 0.2:
        return str(fake["zh_CN"].license_plate())
    return (
        draw.choice("京沪粤苏浙鲁川渝鄂湘")
        + draw.choice(letters)
        + draw.choice(("", "", "·"))
        + serial
    )


def _email(draw: random.Random, fake: Fakes) -> str:
    user = "".join(draw.choices(string.ascii_lowercase + string.digits, k=draw.randint(4, 10)))
    user = draw.choice((user, f"{user}.{user[:3]}", f"{user}+tag", f"{user}_01"))
    host = draw.choice(("qq.com", "163.com", "gmail.com", "mail.sina.com.cn", "firma.de"))
    return f"x{user}{draw.choice('@@@＠')}{host}"


def _ip(draw: random.Random, fake: Fakes) -> str:
    if draw.random() < 0.2:
        return f"2001:{draw.randrange(0x200, 0xDB0):x}::{draw.randrange(1, 0xFFFF):x}"
    return f"{draw.choice((36, 58, 101, 121, 183, 218))}.{draw.randint(1, 254)}" + "".join(
        f".{draw.randint(1, 254)}" for _ in range(2)
    )


def _secret(draw: random.Random, fake: Fakes) -> str:
    mixed = string.ascii_letters + string.digits
    return draw.choice(
        (
            "AKIA" + "".join(draw.choices(string.ascii_uppercase + string.digits, k=16)),
            "ghp_" + "".join(draw.choices(mixed, k=36)),
            "sk-" + "".join(draw.choices(mixed, k=48)),
            "LTAI5t" + "".join(draw.choices(mixed, k=18)),
            "hf_" + "".join(draw.choices(mixed, k=34)),
            "xoxb-" + _digits(draw, 11) + "-" + "".join(draw.choices(mixed, k=24)),
            "AIza" + "".join(draw.choices(mixed, k=35)),
        )
    )


PLACES = (
    ("北京市", "海淀区", "中关村大街"),
    ("上海市", "浦东新区", "世纪大道"),
    ("广东省深圳市", "南山区", "科技园南路"),
    ("浙江省杭州市", "西湖区", "文三路"),
    ("四川省成都市", "武侯区", "天府大道"),
    ("江苏苏州", "工业园区", "星湖街"),
    ("湖北省武汉市", "洪山区珞喻路街道", "珞喻路"),
    ("内蒙古自治区呼和浩特市", "赛罕区", "大学西街"),
    ("深圳市", "福田区", "深南大道"),
    ("广州", "天河区", "体育西路"),
)


def _address(draw: random.Random, fake: Fakes) -> str:
    if draw.random() < 0.4:
        return str(fake["zh_CN"].address())
    if draw.random() < 0.15:
        return f"{draw.randint(1, 999)} Maple Street, Springfield, IL {_digits(draw, 5)}"
    city, district, street = draw.choice(PLACES)
    number = draw.randint(1, 999)
    unit, room = draw.randint(1, 6), draw.randint(101, 2804)
    return (
        city
        + district
        + street
        + draw.choice(
            (
                f"{number}号",
                f"{number}号{unit}号楼{room}室",
                f"{number}号院{unit}栋{unit}单元{room}",
                f"{number}号阳光花园{unit}幢{room}室",
                f"{number}弄{unit}号{room}室",
                f"{number}号国际大厦{unit}座{unit}层",
            )
        )
    )


def _name(draw: random.Random, fake: Fakes) -> tuple[str, str, str]:
    if draw.random() < 0.2:
        value = f"{fake['en_US'].first_name()} {fake['en_US'].last_name()}"
        before, behind = draw.choice(
            (
                ("My name is ", "."),
                ("Contact: ", ", by phone"),
                ("Mr. ", " called"),
                ("Dear ", ",\n"),
            )
        )
        return before, value, behind
    value = str(fake["zh_CN"].name())
    before, behind = draw.choice(
        (
            ("姓名：", "，电话稍后补充"),
            ("你好，我叫", "，想问一下"),
            ("我叫", "今年想退货"),
            ("收件人：", " 请尽快"),
            ("联系人", "，晚上联系"),
            ("请转告", "先生明天到"),
            ("客户：", "反映设备不能用"),
            ("患者姓名：", "\n"),
            ("本人", "申请退款"),
            ("收货人是", "。"),
            ("找一下", "女士"),
        )
    )
    return before, value, behind


MAKERS: dict[str, Callable[[random.Random, Fakes], str]] = {
    "cn_id": _cn_id,
    "phone": _phone,
    "card": _card,
    "plate": _plate,
    "email": _email,
    "ip": _ip,
    "secret": _secret,
    "address": _address,
}


SENTENCES = """
客户高兴就好
学生们都到了
北京路很长
这个方面我叫不准
患者不要空腹服药
请联系客服
本人签字后生效
密码是什么
密码怎么修改
路由器的密码在背面
How do I change the password?
the token is short
Dear customer, hello
上海的天气不错
我是高中生
我是新来的
联系方式在哪里改
收件人地址怎么填
call me later
10 Green Bottles
第3号楼梯
5号线到了
the name is too long
项目经理在吗
The Pi 5 has 8 GB
Version 12 Bookworm
四川菜很辣
京东快递
名字叫什么都行
户主是谁
温度是25度
请输入16位卡号
手机号是11位
""".strip().splitlines()
"""Sentences with a cue and no value, and with what only looks like one."""


def hard_negatives(seed: int = 0) -> Iterator[str]:
    """Yield sentences that hold nothing personal and look as if they did."""
    draw = random.Random(seed)
    numbers = (
        lambda: _digits(draw, draw.randint(4, 10)),
        lambda: "2" + _digits(draw, 11),
        lambda: _digits(draw, 20),
        lambda: f"2026{draw.randint(1, 12):02}{draw.randint(1, 28):02}{_digits(draw, 8)}",
        lambda: f"17{_digits(draw, 11)}",
        lambda: f"v{draw.randint(1, 9)}.{draw.randint(1, 20)}.12.{draw.randint(1, 99)}",
        lambda: f"版本 {draw.randint(1, 9)}.{draw.randint(1, 20)}.{draw.randint(1, 20)}.7",
        lambda: f"{draw.randint(1, 9999)}.{_digits(draw, 11)}",
        lambda: "-".join(_hex(draw, count) for count in (8, 4, 4, 4, 12)),
        lambda: _hex(draw, 40),
        lambda: ":".join(_hex(draw, 2) for _ in range(6)),
        lambda: f"192.168.{draw.randint(0, 255)}.{draw.randint(1, 254)}",
        lambda: draw.choice(("9.9.9.9", "8.8.8.8", "127.0.0.1", "255.255.255.0", "10.0.0.1")),
        lambda: draw.choice(("user@example.com", "git@github.com:a/b.git", "pi@raspberrypi.local")),
        lambda: f"¥{draw.randint(1, 99999)}.{_digits(draw, 2)}",
        lambda: f"{draw.randint(2000, 2026)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}",
        lambda: f"ISBN 978-7-{_digits(draw, 3)}-{_digits(draw, 5)}-{_digits(draw, 1)}",
        lambda: f"SKU{_digits(draw, 11)}",
        lambda: _wrong_id(draw),
        lambda: _wrong_card(draw),
        lambda: "eth0: " + _hex(draw, 12),
    )
    for number in range(1500):
        if number % 3:
            value = numbers[number % len(numbers)]()
            yield draw.choice(("编号{}请核对", "see {} there", "查询{}", "{}已完成")).format(value)
        else:
            yield SENTENCES[number // 3 % len(SENTENCES)]


def _hex(draw: random.Random, count: int) -> str:
    return "".join(draw.choices("0123456789abcdef", k=count))


def _wrong_id(draw: random.Random) -> str:
    first = "440305" + "19900101" + _digits(draw, 3)
    right = ric.calc_check_digit(first + "0")
    return first + draw.choice([each for each in string.digits if each != right])


def _wrong_card(draw: random.Random) -> str:
    first = "4" + _digits(draw, 14)
    right = luhn.calc_check_digit(first)
    return first + draw.choice([each for each in string.digits if each != right])

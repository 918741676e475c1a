"""Chat templates of strangers: fifty that try to run code or to reach what is not theirs, ten that
try to burn memory or time.

`{canary}` is a file that none of them may make.
"""

_TOUCH = "touch {canary}"
CODE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ().__class__.__bases__[0].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__()[100] }}",
    "{{ ''.__class__.__base__.__subclasses__()|map(attribute='__name__')|list }}",
    "{% for c in [].__class__.__base__.__subclasses__() %}{% if c.__name__ == 'Popen' %}{{ c('"
    + _TOUCH
    + "', shell=True) }}{% endif %}{% endfor %}",
    (
        "{% for c in ().__class__.__base__.__subclasses__() %}{% if 'warning' in c.__name__ %}"
        "{{ c()._module.__builtins__['__import__']('os').system('"
    )
    + _TOUCH
    + "') }}{% endif %}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.popen('" + _TOUCH + "').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('" + _TOUCH + "').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('" + _TOUCH + "').read() }}",
    "{{ lipsum.__globals__['os'].popen('" + _TOUCH + "').read() }}",
    "{{ lipsum.__globals__.__builtins__.open('{canary}', 'w') }}",
    "{{ range.__class__.__base__ }}{{ range.__init__.__globals__ }}",
    "{{ dict.__class__.mro(dict) }}{{ dict.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('" + _TOUCH + "') }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('"
    + _TOUCH
    + "') }}",
    "{{ self.__class__.__dict__ }}{{ self.__class__.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('" + _TOUCH + "') }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ raise_exception.__globals__.room }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ strftime_now.__closure__ }}{{ strftime_now.__code__ }}",
    "{{ messages.__class__.__mro__ }}{{ messages.__init__.__self__ }}",
    "{{ messages[0].__class__.__init__.__objclass__ }}",
    "{{ messages[0]['content'].__class__.__mro__[1] }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ ''|attr('__cl' ~ 'ass__')|attr('__base__')|attr('__subclasses__')() }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f')|attr('\\x5f\\x5fbase\\x5f\\x5f') }}",
    "{{ (''|attr('_'*2 ~ 'class' ~ '_'*2)).mro() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ ''['__cla' 'ss__'] ['__base__']['__subclasses__']() }}",
    "{{ messages|map(attribute='__class__')|first|attr('__init__') }}",
    "{{ messages|map(attribute='__class__.__base__.__subclasses__')|list|first }}",
    "{{ [''.format]|map('attr', '__self__')|first|attr('__class__') }}",
    "{{ messages|groupby('__class__')|first|attr('grouper')|attr('__base__') }}",
    "{{ messages|sort(attribute='__class__.__name__') }}{{ messages|sum(attribute='__class__') }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "{{ '%s'|format(''.__class__) }}",
    "{{ ('{0.__globals__}'|attr('format'))(lipsum) }}",
    (
        "{% set f = '{0.__class__.__subclasses__}'.format %}{{ f('') }}{{ f.__self__ }}{{ "
        "f.__func__ }}"
    ),
    "{{ messages.append('evil') }}",
    "{% do messages.clear() %}",
    "{{ messages[0].update(role='system') }}{{ messages[0].pop('role') }}",
    "{% set x = messages.__setitem__(0, 'evil') %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('" + _TOUCH + "') }}",
    "{% from '/etc/passwd' import root %}{{ root }}",
    "{% extends '../../../../etc/passwd' %}",
    (
        "{% macro evil() %}{{ caller.__globals__ }}{% endmacro %}{% call evil() %}{% endcall %}"
        "{{ evil.__init__.__globals__ }}{{ evil._func.__globals__ }}"
    ),
]
"""Each must be refused: not one may render."""
BOMBS = [
    "{{ 'x' * 900000000 }}",
    "{{ '%0900000000d' % 1 }}",
    "{{ 'x' * 2000000 }}",
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% macro again(n) %}{{ again(n + 1) }}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
    (
        "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}{{ ns.s }}"
    ),
    "{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}",
    (
        "{{ range(99999)|list|string|list|sort|join|list|sort|join|length }}{% for a in "
        "range(99999) %}{{ 'x' * 99 }}{% endfor %}"
    ),
    "{% if messages|length > 20 %}{{ 'x' * 900000000 }}{% endif %}hello",
    "{{ lipsum(n=100000) }}",
]
"""Each must be stopped by a limit, on memory, time or size."""
PAYLOADS = [*CODE, *BOMBS]

"""Chat templates that write calls as public models' templates do: Qwen2.5's and Hermes', Llama
3.2's, three of Mistral's, FunctionGemma's, and one without a system turn, as Gemma's.
"""

HERMES = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{% endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
LLAMA3 = """{%- set first = messages[0]['content'] %}
{%- if tools %}
    {{- '<|im_start|>user\\nRespond in the format {"name": name, "parameters": values}.\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first + '<|im_end|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>ipython\\n' + (message.content | tojson) + '<|im_end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|im_start|>assistant\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|im_end|>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
GEMMA = """{%- for message in messages %}
    {%- if message.role == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant') }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
_MISTRAL = """{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}
    {%- elif message.role == 'user' %}
        {%- if tools and loop.last %}
            {{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
    {%- elif message.tool_calls %}
        CALLS
        {{- '</s>' }}
    {%- else %}
        {{- message.content + '</s>' }}
    {%- endif %}
{%- endfor %}
{%- if tools and messages[-1].role != 'user' %}{{- tools | tojson }}{% endif %}
"""
_SHORT = (
    """{%- if call.id|length != 9 %}{{- raise_exception('ids have nine characters') }}{% endif %}"""
)
MISTRAL = _MISTRAL.replace(
    "CALLS",
    """{%- for call in message.tool_calls %}
        {{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + (call.function.arguments | tojson) }}
    {%- endfor %}""",
)
MISTRAL_IDS = _MISTRAL.replace(
    "CALLS",
    f"""{{%- for call in message.tool_calls %}}{_SHORT}
        {{{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id }}}}
        {{{{- '[ARGS]' + (call.function.arguments | tojson) }}}}
    {{%- endfor %}}""",
)
MISTRAL_LIST = _MISTRAL.replace(
    "CALLS",
    f"""{{{{- '[TOOL_CALLS][' }}}}
    {{%- for call in message.tool_calls %}}{_SHORT}
        {{{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}}' }}}}
        {{{{- ']' if loop.last else ', ' }}}}
    {{%- endfor %}}""",
)
# Keys stand bare and sorted, texts between two tokens `<escape>`: the form that Google documents.
FUNCTION_GEMMA = """{%- macro value(it) -%}
    {%- if it is string -%}{{- '<escape>' + it + '<escape>' -}}
    {%- elif it is boolean -%}{{- 'true' if it else 'false' -}}
    {%- elif it is mapping -%}{{- '{' -}}{{- pairs(it) -}}{{- '}' -}}
    {%- elif it is sequence -%}
        {{- '[' -}}{%- for each in it -%}{{- value(each) -}}{{- '' if loop.last else ',' -}}
        {%- endfor -%}{{- ']' -}}
    {%- else -%}{{- it -}}{%- endif -%}
{%- endmacro -%}
{%- macro pairs(them) -%}
    {%- for key, each in them | dictsort -%}
        {{- key + ':' -}}{{- value(each) -}}{{- '' if loop.last else ',' -}}
    {%- endfor -%}
{%- endmacro -%}
{%- if tools -%}
    {{- '<start_of_turn>developer\n' -}}
    {%- for tool in tools -%}
        {{- '<start_function_declaration>declaration:' + tool.function.name + '{' -}}
        {{- pairs(tool.function.parameters) -}}{{- '}<end_function_declaration>' -}}
    {%- endfor -%}
    {{- '<end_of_turn>\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}
        {{- '<start_function_response>response:' + message.name + '{value:' -}}
        {{- value(message.content) -}}{{- '}<end_function_response>' -}}
    {%- else -%}
        {{- '<start_of_turn>' + message.role + '\n' + message.content -}}
        {%- for call in message.tool_calls or [] -%}
            {{- '<start_function_call>call:' + call.function.name + '{' -}}
            {{- pairs(call.function.arguments) -}}{{- '}<end_function_call>' -}}
        {%- endfor -%}
        {{- '' if message.tool_calls else '<end_of_turn>\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if messages[-1].role != 'tool' -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}
"""
GEMMA4 = (
    FUNCTION_GEMMA.replace("<escape>", '<|"|>')
    .replace("<start_function_call>", "<|tool_call>")
    .replace("<end_function_call>", "<tool_call|>")
)
"""The same form between Gemma 4's tokens."""

"""The prompt of a task: instruction, worked examples, then the task's reference class, through the chat template.

The task comes last, so that everything before it is a common token prefix of all tasks. The examples are ours, none of
them is a Level-1 task, and they show that the action may be written otherwise than the reference if it is equal.
"""

import ast
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from expert_tail.errors import UserError
from expert_tail.policy.action import CANDIDATE_CLASS, class_of_reference, without_docstrings
from expert_tail.policy.settings import PromptSettings

Message = dict[str, str]

_INSTRUCTIONS = {
    "forward_body": "Rewrite the body of forward in PyTorch: same result, faster. Answer with code only.",
    "module": f"Rewrite class Model as {CANDIDATE_CLASS}: same result, faster. Answer with one complete Python module.",
}
_IMPORTS = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F"

# Template variables of reasoning models; other templates ignore them. A short answer needs no reasoning.
_TEMPLATE_VARIABLES = {"enable_thinking": False, "reasoning_effort": "low", "date_string": "01 Jan 2026"}
# Some templates write today's date, and tomorrow's prompt would be another one than was sampled from: it stands still.
_DATE = "{%- macro strftime_now(format) -%}2026-01-01{%- endmacro -%}"

# GPT-OSS' format, https://developers.openai.com/cookbook/articles/openai-harmony, without its system message: instructions
# are the developer's, answers go to the final channel.
_HARMONY = (
    "{% for message in messages %}{% if message.role == 'system' %}"
    "<|start|>developer<|message|># Instructions\n\n{{ message.content }}<|end|>"
    "{% elif message.role == 'user' %}<|start|>user<|message|>{{ message.content }}<|end|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ message.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
_HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")


@dataclass(frozen=True)
class _Example:
    arguments: str  # of forward
    reference: str  # the expression its forward returns
    body: str  # the answer
    inputs: str  # elements of the list that get_inputs returns
    init: str = ""  # what __init__ does

    def model(self, name: str = "Model", body: str | None = None) -> str:
        init = f"    def __init__(self):\n        super().__init__()\n        {self.init}\n\n" if self.init else ""
        forward = f"    def forward(self, {self.arguments}):\n        {body or f'return {self.reference}'}"
        return f"class {name}(nn.Module):\n{init}{forward}"

    def reference_module(self) -> str:
        inputs = f"def get_inputs():\n    return [{self.inputs}]\n\n\ndef get_init_inputs():\n    return []"
        return f"{_IMPORTS}\n\n\n{self.model()}\n\n\n{inputs}"


_EXAMPLES = (
    _Example("x", "torch.stack([x, x]).sum(dim=0)", "return x + x", "torch.rand(64, 64)"),
    _Example(
        "a, b", "torch.sqrt(torch.pow(a - b, 2))", "return torch.abs(a - b)", "torch.rand(64, 64), torch.rand(64, 64)"
    ),
    # A layer that stays as it is: more than half of the tasks wrap one, and copying its call is the first step.
    _Example("x", "self.proj(x.clone())", "return self.proj(x)", "torch.rand(64, 64)", "self.proj = nn.Linear(64, 64)"),
)


def prompt_tokens(tokenizer: Any, reference_source: str, settings: PromptSettings, *, then: str = "") -> list[int]:
    """Token ids of the prompt, up to where the assistant's answer begins; `then` is said after the task, in its turn."""
    messages = [{"role": "system", "content": _INSTRUCTIONS[settings.action]}]
    for example in _EXAMPLES[: settings.examples]:
        shown = _shown(example.reference_module(), settings)
        messages += [_user(shown), {"role": "assistant", "content": _answer(example, settings.action)}]
    messages.append(_user(_shown(reference_source, settings) + (then and f"\n\n{then}")))
    text = _harmony(tokenizer, messages) if settings.template == "harmony" else _rendered(tokenizer, messages)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def has_channels(tokenizer: Any) -> bool:
    """Whether special tokens mark the channels of an answer (GPT-OSS): without them it would read `finalreturn x`."""
    return tokenizer.convert_tokens_to_ids("<|channel|>") not in (None, tokenizer.unk_token_id)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _answer(example: _Example, action: str) -> str:
    if action == "forward_body":
        return example.body
    return f"```python\n{_IMPORTS}\n\n\n{example.model(CANDIDATE_CLASS, example.body)}\n```"


def _shown(reference_source: str, settings: PromptSettings) -> str:
    if settings.reference == "module":
        return reference_source.strip()
    try:
        model = class_of_reference(ast.parse(reference_source))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"the task's reference is not Python: {error}") from error
    if model is None:
        raise UserError("the task's reference defines no class `Model`")
    without_docstrings(model)
    return ast.unparse(_WithoutAnnotations().visit(model)).replace("\n\n", "\n")


class _WithoutAnnotations(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def _rendered(tokenizer: Any, messages: list[Message]) -> str:
    """The chat as text; the instruction joins the first user turn where the template has no place for it."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has no chat template; take an instruction-tuned policy"
        )
    try:
        text = _template(tokenizer, messages)
        if messages[0]["content"] in text:
            return text
    except TemplateError:
        pass
    system, first, *rest = messages
    try:
        return _template(tokenizer, [_user(f"{system['content']}\n\n{first['content']}"), *rest])
    except TemplateError as error:
        raise UserError(f"the chat template of {tokenizer.name_or_path} refuses the prompt: {error}") from error


def _harmony(tokenizer: Any, messages: list[Message]) -> str:
    lacking = [token for token in _HARMONY_TOKENS if token not in tokenizer.get_vocab()]
    if lacking:
        raise UserError(
            f"`prompt.template`: harmony needs the token {lacking[0]}, which {tokenizer.name_or_path} has not; set it to own"
        )
    return _template(tokenizer, messages, chat_template=_HARMONY)


def _template(tokenizer: Any, messages: list[Message], chat_template: str | None = None) -> str:
    template = tokenizer.get_chat_template(chat_template)
    if "strftime_now" in template:
        template = _DATE + template
    return tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, **_TEMPLATE_VARIABLES
    )

"""What the portal's source says to people: its messages, and the literals that forgot to be messages.

Babel's own extractor does not look inside f-strings, where the portal has messages too, so this reads the
syntax tree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "ui").rglob("*.py"), *(ROOT / "pages").rglob("*.py")])

MessageId = str | tuple[str, str]

# Calls whose texts a person reads: of `st`, of columns, of containers and of placeholders alike.
SHOWING = frozenset(
    """
    title header subheader caption markdown text write info error warning success toast metric badge status
    spinner progress
    button link_button download_button form_submit_button page_link checkbox toggle radio selectbox
    multiselect pills segmented_control slider select_slider text_input text_area number_input date_input
    time_input file_uploader feedback
    expander popover tabs dialog Page set_page_config dataframe data_editor table image DataFrame Column
    TextColumn NumberColumn show_amount
    """.split()  # noqa: SIM905  # as a list, one name a line, it would bury the code
)
TEXT_ARGUMENTS = frozenset(
    ["label", "body", "text", "title", "help", "placeholder", "caption", "page_title", "value_text", "description"]
)
# Texts of these are translated or formatted where they are made.
MARKING = frozenset({"_", "ngettext", "N_"})
# Markdown directives and units are no words.
NO_WORDS = re.compile(r":material/\w+:|:[\w-]+\[|<br>|\b(?:px|ms)\b")


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def messages(source: str) -> Iterator[MessageId]:
    """Every message marked in a source text, in its order; plural messages as pairs."""
    for call in _marking_calls(source):
        wanted = call.args[:2] if _name(call) == "ngettext" else call.args[:1]
        texts = tuple(node.value for node in wanted if isinstance(node, ast.Constant) and isinstance(node.value, str))
        if len(texts) == len(wanted):
            yield texts if len(texts) == 2 else texts[0]  # type: ignore[misc]  # one or two, never more


def computed_messages(source: str) -> Iterator[str]:
    """The arguments of `_()` and `ngettext()` that are no literals: no extractor finds what they say."""
    for call in _marking_calls(source):
        for node in call.args[:2] if _name(call) == "ngettext" else call.args[:1]:
            if not _is_text(node):
                yield ast.unparse(node)


def bare_literals(source: str) -> Iterator[str]:
    """Words shown to a person that did not go through `_()`."""
    for call in _calls(source, SHOWING):
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("log", "logging"):
            continue
        # `show_amount(place, label, amount)` has its text second.
        shown = call.args[1:2] if _name(call) == "show_amount" else call.args[:1]
        shown += [keyword.value for keyword in call.keywords if keyword.arg in TEXT_ARGUMENTS]
        for node in shown:
            for text in _texts(node):
                if any(character.isalpha() for character in NO_WORDS.sub("", text)):
                    yield text


def _calls(source: str, wanted: frozenset[str]) -> Iterator[ast.Call]:
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _name(node) in wanted)
    yield from sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _marking_calls(source: str) -> Iterator[ast.Call]:
    """Calls of our own functions, not of a catalogue's methods of the same names."""
    return (call for call in _calls(source, MARKING) if isinstance(call.func, ast.Name))


def _texts(node: ast.expr) -> Iterator[str]:
    """The literals of an expression that end up on the page: not those of conditions, calls and dictionary values."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                yield from _texts(part)
        case ast.FormattedValue(value=inner):
            yield from _texts(inner)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from _texts(left)
            yield from _texts(right)
        case ast.BoolOp(values=parts):
            yield from _texts(parts[-1])
        case ast.IfExp(body=one, orelse=other):
            yield from _texts(one)
            yield from _texts(other)
        case ast.Dict(keys=keys):
            for key in keys:
                if key is not None:
                    yield from _texts(key)
        case ast.ListComp(elt=inner) | ast.GeneratorExp(elt=inner):
            yield from _texts(inner)
        case ast.Call(func=ast.Attribute(value=inner, attr="format")):
            yield from _texts(inner)
        case ast.Call(func=ast.Attribute(value=inner, attr="join"), args=[joined]):
            yield from _texts(inner)
            yield from _texts(joined)

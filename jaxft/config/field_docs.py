"""The documentation of a field: the comment beside it in its class, or the comment above it."""

import ast
import inspect
import io
import textwrap
import tokenize


def field_docs(cls: type) -> dict[str, str]:
    """Field -> comment, for the class and those that it inherits from; fields without a comment are left out."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= _own_docs(base)
    return found


def _own_docs(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # made without a file
        return {}
    (tree,) = ast.parse(source).body
    beside, alone = _comments(source)
    docs = {}
    for node in tree.body if isinstance(tree, ast.ClassDef) else []:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        above = node.lineno
        while above - 1 in alone:
            above -= 1
        text = [beside[line] for line in lines if line in beside]
        if text := text or [alone[line] for line in range(above, node.lineno)]:
            docs[node.target.id] = " ".join(text)
    return docs


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Line -> comment, for comments beside code and for those that have a line for themselves."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("# ")
        if token.type == tokenize.COMMENT and not text.startswith(("type:", "noqa", "fmt:")):
            kind = alone if token.line.lstrip().startswith("#") else beside
            kind[token.start[0]] = text
    return beside, alone

"""What a query of a schedule may be: one SELECT.

Knows where texts, names and comments of SQL begin and end. Must not know a database. The database has the last word: the
transaction is read-only where there is such a thing, and the operator gives an account that may do no more.
"""

from __future__ import annotations

import re

from corpusmill.errors import PlaceFault

#: Texts, quoted names, dollar quotes and comments: what stands in them is no SQL.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | (\$\w*\$).*?\1 | --[^\n]* | /\*(?!!).*?\*/""",
    re.DOTALL | re.VERBOSE,
)
#: What begins one of these and does not end, and comments that MySQL runs.
_OPEN = re.compile(r"""['"`]|--|/\*|\$\w*\$""")
#: To some databases the quote is then a part of the text, and to others its end.
_AMBIGUOUS = re.compile(r"""\\['"`]""")


def refuse_statements(query: str) -> None:
    """Raises PlaceFault where a query is anything but one SELECT, or leaves the parentheses that it will stand in."""
    if _AMBIGUOUS.search(query):
        raise PlaceFault(
            "The query has a backslash before a quote, which databases read differently: write it otherwise."
        )
    bare = _QUOTED.sub(" x ", query)
    if _OPEN.search(bare):
        raise PlaceFault("The query has a quote or a comment that does not end.")
    bare = bare.strip().removesuffix(";").strip()
    if not re.match(r"(select|with)\b", bare, re.IGNORECASE):
        raise PlaceFault("The query is no SELECT: a source is read and never changed.")
    if ";" in bare:
        raise PlaceFault("The query holds more than one statement: give one SELECT.")
    depth = 0
    for mark in re.findall(r"[()]", bare):
        depth += 1 if mark == "(" else -1
        if depth < 0:
            break
    if depth:
        raise PlaceFault("The query's parentheses do not match.")


def as_subselect(query: str) -> str:
    """The query as it can stand between parentheses in SQLAlchemy's text, where `:name` would be a parameter.

    Its last line may be a comment. Raises PlaceFault as `refuse_statements` does.
    """
    refuse_statements(query)
    whole = query.strip()
    if _QUOTED.sub(lambda match: "x" * len(match[0]), whole).endswith(";"):
        whole = whole[:-1]
    return whole.replace(":", "\\:") + "\n"

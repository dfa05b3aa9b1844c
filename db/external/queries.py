"""What a query of a schedule may be: one SELECT.

Knows where texts, names and comments of SQL begin and end, and for which databases that holds: what another one may read
differently is refused there. Must not know a connection. The database has the last word: the transaction is read-only where
there is such a thing, and the operator gives an account that may do no more.
"""

from __future__ import annotations

import re

from corpusmill.errors import PlaceFault

#: Texts, quoted names, dollar quotes and comments: what stands in them is no SQL. A name may hold, and end with, a dollar.
_QUOTED = re.compile(
    r"""(?:\bn?q)?'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]* | /\*(?!M?!).*?\*/
    | (?<![\w$\x80-\U0010ffff])(\$(?:[^\W\d]\w*)?\$).*?\1""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
#: What begins one of these and does not end, and comments that MySQL and MariaDB run.
_OPEN = re.compile(r"""['"`]|--|/\*|\$\w*\$""")
#: To some databases the quote is then a part of the text, and to others its end.
_AMBIGUOUS = re.compile(r"""\\['"`]""")
#: Comments that end elsewhere in some databases: at a carriage return, or only after an inner one.
_AMBIGUOUS_COMMENT = re.compile(r"--.*\r(?!\Z)|/\*.*/\*", re.DOTALL)
_MYSQL, _OTHERS = {"mysql", "mariadb"}, {"postgresql", "sqlite", "mssql", "oracle"}
#: Texts, names and comments that mean something else, or nothing, to other databases than these.
_QUOTES = (
    (re.compile(r"--[^ \t\r\n]"), _OTHERS, "a comment without a space after its `--`"),
    (re.compile(r"\$"), {"postgresql"}, "a dollar quote"),
    (re.compile(r"n?q'", re.IGNORECASE), (_OTHERS | _MYSQL) - {"oracle"}, "`q` before a quote"),
)
#: Likewise what stands outside them: to MySQL `#` begins a comment, to SQLite and SQL Server `[` a name.
_MARKS = (
    ("#", _OTHERS, "a `#`"),
    ("[", {"postgresql", "oracle"} | _MYSQL, "a `[`"),
)


def refuse_statements(query: str, backend: str) -> None:
    """Raises PlaceFault where a query is anything but one SELECT, leaves the parentheses that it will stand in, or holds
    what `backend` (a dialect's name; any) may take for something else than it looks like."""
    if _AMBIGUOUS.search(query):
        raise PlaceFault(
            "The query has a backslash before a quote, which databases read differently: write it otherwise."
        )
    bare = _QUOTED.sub(" x ", query)
    _refuse_doubts([quoted[0] for quoted in _QUOTED.finditer(query)], bare, backend)
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


def _refuse_doubts(quoted: list[str], bare: str, backend: str) -> None:
    doubts = ["a carriage return or a second `/*` in a comment"] if any(map(_AMBIGUOUS_COMMENT.match, quoted)) else []
    doubts += [name for form, safe, name in _QUOTES if backend not in safe and any(map(form.match, quoted))]
    doubts += [name for mark, safe, name in _MARKS if backend not in safe and mark in bare]
    if doubts:
        raise PlaceFault(
            f"The query has {doubts[0]}, which databases read differently: write it otherwise, or make it a view."
        )


def as_subselect(query: str, backend: str) -> str:
    """The query as it can stand between parentheses in SQLAlchemy's text, where `:name` would be a parameter.

    Its last line may be a comment. Raises PlaceFault as `refuse_statements` does.
    """
    refuse_statements(query, backend)
    whole = query.strip()
    if _QUOTED.sub(lambda match: "x" * len(match[0]), whole).endswith(";"):
        whole = whole[:-1]
    return whole.replace(":", "\\:") + "\n"

"""What was seen of the clients, as the table of docs/compatibility.md."""

import re

WORKS, FAILS, NOT_INSTALLED = "works", "fails", "not installed"
BEGIN, END = "<!-- clients: written by tests/lab/test_clients.py -->", "<!-- clients end -->"
HEAD = "| program | from | variables | seen |\n|---|---|---|---|"


def line(client, seen):
    """The table's row of one client."""
    why = {WORKS: "", FAILS: f": {client.fails}", NOT_INSTALLED: ": could not be had here"}[seen]
    return f"| {client.name} | {client.source} | {'ignores them' if client.ignores else ''} | {seen}{why} |"


def put(text, lines):
    """The document with that table in the place of the one that it has."""
    table = "\n".join([BEGIN, "", HEAD, *lines, "", END])
    found = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not found.search(text):
        raise ValueError(f"the document has no place for the table: {BEGIN}")
    return found.sub(lambda _: table, text)

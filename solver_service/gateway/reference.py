"""`/openapi.json`, and `/docs`: the same as a page to read, without scripts and without anything from another host."""

import json
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse

_STYLE = """
body {font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem}
code, pre {font: 14px/1.4 ui-monospace, monospace} pre {overflow-x: auto; background: #f4f4f4; padding: .5rem}
summary {cursor: pointer; padding: .3rem 0} summary b {display: inline-block; width: 5rem}
table {border-collapse: collapse} td {padding: .1rem 1rem .1rem 0; vertical-align: top}
"""
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def install(app: FastAPI) -> None:
    """Serve both. They change only with the program, and are written once, in a thread: it takes a while."""

    @cache
    def written() -> tuple[bytes, str]:
        document = app.openapi()
        return bytes(JSONResponse(document).body), page(document)

    @app.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    def document() -> Response:
        return Response(written()[0], media_type="application/json")

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def reference() -> HTMLResponse:
        return HTMLResponse(written()[1], headers=_HEADERS)


def page(document: dict[str, Any]) -> str:
    """Write the whole page."""
    info = document["info"]
    body = [f"<h1>{escape(info['title'])}</h1><p>{escape(info.get('summary', ''))} "]
    body += ['Everything here, for programs: <a href="openapi.json">openapi.json</a>.</p>']
    for path, operations in document["paths"].items():
        body += [_operation(method, path, operation) for method, operation in operations.items()]
    body += ["<h2>Schemas</h2>", *_schemas(document["components"]["schemas"])]
    title = escape(info["title"])
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>'


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    rows = [
        (f"{found['name']} ({found['in']}{', required' if found.get('required') else ''})", _words(found))
        for found in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        kinds = ", ".join(operation["requestBody"]["content"])
        rows.append((f"body: {kinds}", operation["requestBody"].get("description", "")))
    rows += [(f"→ {status}", answer.get("description", "")) for status, answer in operation["responses"].items()]
    parts.append(_table(rows))
    name = f"<b>{escape(method.upper())}</b> <code>{escape(path)}</code>"
    return f"<details><summary>{name} {escape(operation.get('summary', ''))}</summary>{''.join(parts)}</details>"


def _schemas(schemas: dict[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        text = escape(json.dumps(schema, indent=1, ensure_ascii=False))
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>'


def _words(parameter: dict[str, Any]) -> str:
    return str(parameter.get("description") or parameter.get("schema", {}).get("description", ""))


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{escape(words)}</td></tr>" for name, words in rows)
    return f"<table>{cells}</table>"

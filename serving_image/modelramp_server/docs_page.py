"""`/docs`: the OpenAPI document as one page that needs nothing from any other host, no script either."""

import json
from html import escape
from shlex import quote
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2128}
code,pre{font:13px/1.5 ui-monospace,monospace}pre{background:#f3f4f6;padding:.8rem;overflow:auto;max-height:16rem}
section{border-top:1px solid #d0d7de;padding:.6rem 0}h2{font-size:1rem;margin:.4rem 0}b{color:#0b5d2a}
td{padding-right:1rem;vertical-align:top}
"""


def render(document: dict[str, Any]) -> bytes:
    """The page.

    Args:
        document: from `openapi.document`.
    """
    info = document["info"]
    sections = [
        _section(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(info['title'])}</h1><p>Version {escape(info['version'])}. "
        f"{escape(info['description'])} As OpenAPI: <a href=/openapi.json>/openapi.json</a></p>{''.join(sections)}"
    ).encode()


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    bodies = operation.get("requestBody", {}).get("content", {})
    parts = [
        f"<section><h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
    ]
    for media, body in bodies.items():
        if "example" in body:
            command = f"curl -d {quote(json.dumps(body['example']))} localhost:8080{path}"
            parts.append(f"<pre>{escape(command)}</pre>")
        else:
            parts.append(f"<p>Body: <code>{escape(media)}</code></p>")
    rows = "".join(
        f"<tr><td><code>{status}</code><td>{escape(response['description'])}"
        for status, response in operation["responses"].items()
    )
    return f"{''.join(parts)}<details><summary>Answers</summary><table>{rows}</table></details></section>"

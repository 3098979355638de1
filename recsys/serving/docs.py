"""The page that explains the HTTP service: one HTML file of our own, so that it reads without a network."""

import html
import json
from typing import Any

_POSTS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "v1/lookup",
        "Embeddings of up to 10,000 ids of a feature, in the order of the ids. Integers and strings are different "
        "ids; an id that was never learned reads what the table says of absent ids.",
        {"feature": "item", "ids": [1, 2, 3]},
    ),
    (
        "v1/recommend",
        "The k best of all items for a user; with why also titles of recent likes that are near to each. What the user "
        "liked lately is left out; with exclude seen what they were shown too, with none nothing is. GET asks the same "
        "by v1/recommend?user=7&k=2.",
        {"user": 7, "k": 2, "why": True},
    ),
    (
        "v1/rank",
        "The k best candidates for a user, with probabilities and titles. Only user is required: k is 10, candidates "
        "are all items but those the user liked lately, time_ms (milliseconds since 1970) is the latest event's.",
        {"user": 7, "candidates": [1, 2, 3], "k": 2},
    ),
]


def docs_page(base_url: str) -> str:
    """The page of a service at ``base_url``, which ends with a slash: each endpoint with a command to try it."""
    posts = "\n".join(_post(base_url, path, what, body) for path, what, body in _POSTS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>recsys</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem; }}
pre {{ overflow-x: auto; padding: .75rem; border: 1px solid #8888; border-radius: 4px; }}
</style>
</head>
<body>
<h1>Lookup, rank and recommend</h1>
<p>Answers carry the versions they were made from. A refusal is <code>{{"error": "one line", "code": "for
programs"}}</code>: 400 and 422 for what was asked wrongly, 401 without the token where there is one, 413 for too much,
503 for what is not published or not reachable yet, 504 for what took too long. All fields and their limits:
<a href="openapi.json">openapi.json</a>.</p>
{posts}
<h2>GET /v1/users, GET /v1/progress</h2>
<p>Who was shown something lately, and how the run that learns is getting on: what the page at <a href="./">/</a> asks
for. Where the service writes to a Kafka, <code>POST /v1/impressions</code> gives what is shown its request ids, and
<code>POST /v1/actions</code> takes what is done about it.</p>
<pre>curl {html.escape(base_url)}v1/users</pre>
<pre>curl {html.escape(base_url)}v1/progress</pre>
<h2>GET /healthz</h2>
<p>Whether the service answers.</p>
<pre>curl {html.escape(base_url)}healthz</pre>
<h2>GET /readyz</h2>
<p>Whether there is something to answer from, and of which version. <code>/metrics</code> has counts and times, for
Prometheus.</p>
<pre>curl {html.escape(base_url)}readyz</pre>
</body>
</html>
"""


def _post(base_url: str, path: str, what: str, body: dict[str, Any]) -> str:
    command = f"curl {base_url}{path} -H 'content-type: application/json' -d '{json.dumps(body)}'"
    return f"<h2>POST /{path}</h2>\n<p>{what}</p>\n<pre>{html.escape(command)}</pre>"

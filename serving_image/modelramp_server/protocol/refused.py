"""Routes of V2's extensions that this server has not, each with the reason and the way that there is."""

import re

from modelramp_server.protocol.errors import ServingError

_REFUSED = [
    (
        r"/v2/repository/models/[^/]+/(?:load|unload)",
        "models are not loaded or unloaded here: a server has one model; start another for another version",
    ),
    (
        r"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/(?:status|register|unregister)",
        "shared memory is not served; send the data in the request",
    ),
    (r"/v2/(?:models/[^/]+/)?trace/setting", "trace settings are not served; tracing is set when the server starts"),
    (r"/v2/logging", "log settings are not served; LOG_LEVEL is set when the server starts"),
    (
        r"/v2/models(?:/[^/]+(?:/versions/[^/]+)?)?/stats",
        "statistics are not served here; GET /metrics has them as Prometheus series",
    ),
    (r"/v2/models/[^/]+(?:/versions/[^/]+)?/(?:generate|generate_stream)", "text generation is not served"),
]
_PATTERNS = [(re.compile(pattern), sentence) for pattern, sentence in _REFUSED]


def refusal(path: str) -> ServingError | None:
    """400 for a route of an extension that is not served; None for any other path."""
    for pattern, sentence in _PATTERNS:
        if pattern.fullmatch(path):
            return ServingError(400, sentence)
    return None

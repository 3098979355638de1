"""What the HTTP service counts, in Prometheus's text format: requests by endpoint and status, and their times."""

import bisect
import threading

_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServiceMetrics:
    """Counts since the start; safe to use from several threads.

    >>> metrics = ServiceMetrics()
    >>> metrics.count("/v1/rank", 200, seconds=0.004)
    >>> [line for line in metrics.exposed().splitlines() if "total" in line and "#" not in line]
    ['recsys_requests_total{endpoint="/v1/rank",status="200"} 1']
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """One request was answered."""
        with self._lock:
            self._requests[endpoint, status] = self._requests.get((endpoint, status), 0) + 1
            buckets = self._buckets.setdefault(endpoint, [0] * (len(_BOUNDS_SECONDS) + 1))
            buckets[bisect.bisect_left(_BOUNDS_SECONDS, seconds)] += 1
            self._seconds[endpoint] = self._seconds.get(endpoint, 0.0) + seconds

    def exposed(self) -> str:
        """All of it as text."""
        with self._lock:
            return "\n".join(
                [
                    "# HELP recsys_requests_total Requests answered, by endpoint and status.",
                    "# TYPE recsys_requests_total counter",
                    *(
                        f'recsys_requests_total{{endpoint="{endpoint}",status="{status}"}} {num}'
                        for (endpoint, status), num in sorted(self._requests.items())
                    ),
                    "# HELP recsys_requests_in_flight Requests being answered now.",
                    "# TYPE recsys_requests_in_flight gauge",
                    f"recsys_requests_in_flight {self.in_flight}",
                    "# HELP recsys_request_seconds How long requests took, by endpoint.",
                    "# TYPE recsys_request_seconds histogram",
                    *(line for endpoint in sorted(self._buckets) for line in self._histogram(endpoint)),
                    "",
                ]
            )

    def _histogram(self, endpoint: str) -> list[str]:
        lines, total = [], 0
        for bound, num in zip((*_BOUNDS_SECONDS, "+Inf"), self._buckets[endpoint], strict=True):
            total += num
            lines.append(f'recsys_request_seconds_bucket{{endpoint="{endpoint}",le="{bound}"}} {total}')
        lines.append(f'recsys_request_seconds_sum{{endpoint="{endpoint}"}} {self._seconds[endpoint]:.6f}')
        lines.append(f'recsys_request_seconds_count{{endpoint="{endpoint}"}} {total}')
        return lines

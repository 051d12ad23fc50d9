# SPDX-License-Identifier: Apache-2.0
"""What /metrics shows, in the text format of Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # a third of the lines, which nobody reads

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Figures:
    """The figures of one server."""

    def __init__(self):
        self._registry = CollectorRegistry()
        of_registry = {"registry": self._registry}
        self.requests = Counter(
            "serving_requests", "Requests.", ["model", "protocol", "code"], **of_registry
        )
        self.seconds = Histogram(
            "serving_request_seconds",
            "From a request's first byte to its answer.",
            ["model"],
            buckets=SECONDS,
            **of_registry,
        )
        self.batch_rows = Histogram(
            "serving_batch_rows", "Rows of a batch.", ["model"], buckets=ROWS, **of_registry
        )
        self.batch_seconds = Histogram(
            "serving_batch_seconds", "Of a batch.", ["model"], buckets=SECONDS, **of_registry
        )
        self.tokens = Counter("serving_tokens", "Tokens of texts.", ["model"], **of_registry)
        self.padding = Counter(
            "serving_padding_tokens", "Tokens that fill up batches.", ["model"], **of_registry
        )
        self.waiting = Gauge("serving_waiting_rows", "Rows that wait.", ["model"], **of_registry)
        self.in_flight = Gauge("serving_requests_in_flight", "Requests at work.", **of_registry)
        self.version = Gauge(
            "serving_model_version", "The version that answers.", ["model"], **of_registry
        )
        self.swaps = Counter("serving_version_swaps", "New versions.", ["model"], **of_registry)

    def on_batch(self, model):
        """Returns what a Batcher calls after each batch."""
        rows, seconds = self.batch_rows.labels(model), self.batch_seconds.labels(model)
        tokens, padding = self.tokens.labels(model), self.padding.labels(model)

        def on_batch(num_rows, num_padded, num_tokens, duration):
            rows.observe(num_rows)
            seconds.observe(duration)
            tokens.inc(num_tokens)
            padding.inc(num_padded - num_tokens)

        return on_batch

    def text(self):
        """Returns the figures: bytes."""
        return generate_latest(self._registry)

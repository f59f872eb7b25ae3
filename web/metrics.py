"""GET /metrics: figures of the running program in Prometheus's text format (or OpenMetrics, where that is asked for).

`Family` is what the program says; prometheus_client writes it down, with its own figures of the process. It is loaded
with the first scrape. No figure names a person or tells what somebody wrote; labels are few, but for the ids of
sessions that have a worklet now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aiohttp import web

from config.errors import FlowError
from config.logging import get_logger

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from worklets.tally import Durations

log = get_logger(__name__)

_SECONDS = 4.0  # that a group of figures may take; Prometheus waits for 10
_MOST = 2_000  # samples of one family


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `samples`: the values of `labels`, and the figure; of a histogram its durations in seconds."""

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"] = "gauge"
    labels: Sequence[str] = ()
    samples: Iterable[tuple[Sequence[str], float | Durations]] = field(default_factory=tuple)


#: A part of the program that is asked for its figures at each scrape.
Group: TypeAlias = Callable[[], Awaitable[Sequence[Family]]]


class Metrics:
    """The handler of /metrics. `groups` by name: one that fails, or takes longer than `seconds`, leaves the others."""

    def __init__(self, groups: Mapping[str, Group], seconds: float = _SECONDS) -> None:
        self._groups, self._seconds = groups, seconds
        self._process: CollectorRegistry | None = None  # figures of this process

    async def handle(self, request: web.Request) -> web.Response:
        families = await self.families()
        body, content_type = await asyncio.to_thread(self._written, families, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def families(self) -> list[Family]:
        """Of all groups, and which of them answered."""
        found = await asyncio.gather(*(self._ask(name, group) for name, group in self._groups.items()))
        up = [((name,), float(families is not None)) for name, families in zip(self._groups, found, strict=True)]
        answered = Family("flow_up", "Whether this part of Flow could tell its figures.", labels=["part"], samples=up)
        return [answered, *(family for families in found for family in families or ())]

    async def _ask(self, name: str, group: Group) -> Sequence[Family] | None:
        try:
            async with asyncio.timeout(self._seconds):
                return await group()
        except (FlowError, TimeoutError) as error:
            log.debug("no figures for a scrape", part=name, error=str(error))
        except Exception:
            log.exception("a part of /metrics failed", part=name)
        return None

    def _written(self, families: Sequence[Family], accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        if self._process is None:
            self._process = CollectorRegistry()
            ProcessCollector(registry=self._process)
            PlatformCollector(registry=self._process)
        encode, content_type = choose_encoder(accept)
        return encode(_Collected([*map(_metric, families), *self._process.collect()])), content_type


class _Collected:
    """What an encoder takes for a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _metric(family: Family) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    made = kinds[family.kind](family.name, family.help, labels=family.labels)
    for number, (labels, value) in enumerate(family.samples):
        if number == _MOST:
            log.warning("a metric has too many samples; the rest is left out", metric=family.name)
            break
        if isinstance(value, int | float):
            made.add_metric(labels, value)
        else:
            made.add_metric(labels, _buckets(value), value.total)
    return made  # type: ignore[no-any-return]


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    """Cumulated, as Prometheus wants them."""
    found, sum_ = [], 0
    for bound, count in zip((*map(str, durations.bounds), "+Inf"), durations.counts, strict=True):
        sum_ += count
        found.append((bound, float(sum_)))
    return found

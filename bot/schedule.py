"""Who may call Slack next. Pure but for an injected clock (seconds, monotonic).

One scheduler serves the whole workspace, because Slack counts per method and workspace (docs.slack.dev, rate limits):
`chat.update` and the reading methods 50 a minute, `chat.postMessage` about one a second and channel. It holds at most
one job per key, the newest wish; what a job will say is decided when it is sent.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from sessions.types import TurnId

Clock = Callable[[], float]

_WINDOW = 60.5  # Slack's minute, and what a call may be late on its way


class Method(StrEnum):
    POST = "chat.postMessage"
    EDIT = "chat.update"
    START = "chat.startStream"
    APPEND = "chat.appendStream"
    STOP = "chat.stopStream"
    DELETE = "chat.delete"
    REPLIES = "conversations.replies"
    HISTORY = "conversations.history"
    UPLOAD = "files.completeUploadExternal"


class Urgency(IntEnum):
    """Smaller goes first; within one, whoever has waited longest."""

    FINAL = 0  # nothing follows: people wait for it
    FIRST = 1  # a new message, or the first words in one
    GROW = 2


@dataclass(frozen=True, slots=True)
class Job:
    """`since`: the oldest change that nobody has seen. `not_before`: no earlier than this."""

    key: TurnId
    method: Method
    channel: str
    urgency: Urgency
    since: float
    not_before: float = 0.0


class Allowance:
    """At most `per_minute` calls in any minute, evenly spaced but for `burst` at once after a pause."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._gap = 60.0 / per_minute
        self._slack = (burst - 1) * self._gap
        self._due = float("-inf")  # when the next call is due at an even pace
        self._sent: deque[float] = deque(maxlen=per_minute)

    def ready_at(self) -> float:
        full = len(self._sent) == self._sent.maxlen
        return max(self._due - self._slack, self._sent[0] + _WINDOW if full else float("-inf"))

    def spend(self, now: float) -> None:
        self._due = max(self._due, now) + self._gap
        self._sent.append(now)


class Lane:
    """Jobs that wait for the same allowances. Each is looked at when it is due, not at every question."""

    def __init__(self, jobs: Mapping[TurnId, Job]) -> None:
        """`jobs`: those that still stand; what is not in it any more is passed over."""
        self._jobs = jobs
        self._order = itertools.count()
        self._later: list[tuple[float, int, Job]] = []  # by not_before
        self._due: list[tuple[Urgency, float, int, Job]] = []

    def __len__(self) -> int:
        """At most so many jobs stand."""
        return len(self._later) + len(self._due)

    def put(self, job: Job) -> None:
        heapq.heappush(self._later, (job.not_before, next(self._order), job))

    def first(self, now: float) -> Job | None:
        """The most urgent of those that are due."""
        while self._later and (self._later[0][0] <= now or not self._stands(self._later[0][-1])):
            _, number, job = heapq.heappop(self._later)
            if self._stands(job):
                heapq.heappush(self._due, (job.urgency, job.since, number, job))
        while self._due and not self._stands(self._due[0][-1]):
            heapq.heappop(self._due)
        return self._due[0][-1] if self._due else None

    def next_due(self) -> float | None:
        """When the next one is due that `first` did not find due."""
        return self._later[0][0] if self._later else None

    def _stands(self, job: Job) -> bool:
        return self._jobs.get(job.key) is job


class Schedule:
    """Jobs, and the allowances they wait for: Slack's, or `pace` times as many calls."""

    def __init__(self, clock: Clock = time.monotonic, pace: float = 1.0) -> None:
        self._clock = clock
        self._pace = pace
        self._jobs: dict[TurnId, Job] = {}
        self._lanes: dict[tuple[Method, str], Lane] = {}
        self._methods = {
            Method.POST: self._allowance(240, 20),
            Method.EDIT: self._allowance(50, 5),
            Method.DELETE: self._allowance(50, 5),
            Method.START: self._allowance(20, 4),
            Method.APPEND: self._allowance(100, 10),
            Method.STOP: self._allowance(20, 4),
            Method.REPLIES: self._allowance(50, 10),
            Method.HISTORY: self._allowance(50, 10),
            Method.UPLOAD: self._allowance(50, 5),
        }
        self._channels: dict[str, Allowance] = {}
        self._held: dict[Method, float] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Takes the place of an earlier job with the same key."""
        self._jobs[job.key] = job
        name = (job.method, job.channel if job.method is Method.POST else "")
        if name not in self._lanes:
            self._lanes[name] = Lane(self._jobs)
        self._lanes[name].put(job)

    def drop(self, key: TurnId) -> None:
        self._jobs.pop(key, None)

    def hold(self, method: Method, seconds: float) -> None:
        """Slack said `Retry-After`: this method rests, the others go on."""
        self._held[method] = max(self._held.get(method, 0.0), self._clock() + seconds)

    def next(self) -> tuple[Job | None, float | None]:
        """The job that may go now, still in place; or None and the seconds until there may be one (None: no jobs)."""
        now, best, soonest = self._clock(), None, None
        for name, lane in list(self._lanes.items()):
            job, ready = lane.first(now), self._ready_at(*name)
            if job is None and not len(lane):
                del self._lanes[name]
            elif job is None or ready > now:
                due = lane.next_due() if job is None else now
                assert due is not None
                ready = max(ready, due)
                soonest = ready if soonest is None else min(soonest, ready)
            elif best is None or (job.urgency, job.since) < (best.urgency, best.since):
                best = job
        if best is not None:
            return best, 0.0
        return None, None if soonest is None else soonest - now

    def take(self, job: Job) -> None:
        """The job is being done: it leaves, and its call counts."""
        now = self._clock()
        self._jobs.pop(job.key, None)
        self._methods[job.method].spend(now)
        if job.method is Method.POST:
            self._channel(job.channel).spend(now)

    def _ready_at(self, method: Method, channel: str) -> float:
        ready = max(self._methods[method].ready_at(), self._held.get(method, 0.0))
        return max(ready, self._channel(channel).ready_at()) if method is Method.POST else ready

    def _channel(self, channel: str) -> Allowance:
        if channel not in self._channels:
            self._channels[channel] = self._allowance(60, 4)
        return self._channels[channel]

    def _allowance(self, per_minute: int, burst: int) -> Allowance:
        return Allowance(round(per_minute * self._pace), round(burst * self._pace))

"""CPU for masking 1,000 lines of an agent's output, beside `json.loads` of the same lines.

The lines of the figure `cpu`, decoded before: only the masking of their events is counted, with a dozen known values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

from benchmarks.cpu import stream
from benchmarks.harness import Row, milliseconds, ratio
from config.masking import Masker
from sessions.masking import MaskedEvents
from worklets.wire import Decoder

_KNOWN = [f"{number}-known-secret-value" for number in range(12)]


async def measure(quick: bool) -> list[Row]:
    runs, lines, decoder = 5 if quick else 30, stream("p"), Decoder()
    batches = [decoder.feed(line) for line in lines]
    masker = Masker(_KNOWN)

    def parse() -> None:
        for line in lines:
            json.loads(line)

    def mask() -> None:
        masked = MaskedEvents(masker)
        for batch in batches:
            masked.take(batch)

    parsing, masking = (_cpu(work, runs) / len(lines) * 1000 for work in (parse, mask))
    return [
        Row(
            "CPU per 1,000 lines: masking",
            f"{milliseconds(masking)} = {ratio(masking, parsing)}",
            f"json.loads: {milliseconds(parsing)}",
        )
    ]


def _cpu(work: Callable[[], None], runs: int) -> float:
    spent = []
    for _ in range(runs):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return median(spent)

"""What a worklet's profile is put together of may be away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bot.profiles import Composed
from bot.templateprofile import config_of
from sessions.errors import StoreUnavailable
from sessions.templates import TemplateConfig
from worklets.errors import ImageMissing, RuntimeUnavailable
from worklets.profile import Origin, Profile
from worklets.secrets import SecretsAway

ORIGIN = Origin("s", "U1", "C1", template="t")


async def away(*_: Any) -> Any:
    raise SecretsAway


async def test_what_is_away_is_told_as_something_that_can_be_tried_again() -> None:
    composed = Composed([away], learners=[away], forks=[away])
    for asked in (composed.of("w", ORIGIN), composed.learn("w", ORIGIN, Path("/x")), composed.forked("v", "w")):
        with pytest.raises(RuntimeUnavailable, match="What this worklet is to be") as refused:
            await asked
        assert str(SecretsAway()) in str(refused.value)
        assert refused.value.suggestion == SecretsAway.suggestion


async def test_what_is_said_of_worklets_stays_as_it_is() -> None:
    async def missing(*_: Any) -> Profile:
        raise ImageMissing

    with pytest.raises(ImageMissing):
        await Composed([missing]).of("w", ORIGIN)


async def test_a_database_that_is_away_is_waited_for() -> None:
    class Store:
        tries = 0

        async def config_of(self, _session_id: str) -> TemplateConfig:
            self.tries += 1
            if self.tries == 1:
                raise StoreUnavailable
            return TemplateConfig(model="opus")

    store = Store()
    found = await config_of(store, ORIGIN)  # type: ignore[arg-type] - all of a store that it needs
    assert (found, store.tries) == (TemplateConfig(model="opus"), 2)

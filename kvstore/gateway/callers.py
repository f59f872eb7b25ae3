"""Who calls: what a verified token says, or who a part of Flow's own acts for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Caller:
    """A worklet, or a person who owns worklets.

    `issued_at` is the token's `iat` in seconds since 1970, or None where no token is needed: such a caller cannot be
    revoked. `token` is the JWT as it came, for a backend that passes it on.
    """

    role: Literal["worklet", "authenticated"]
    worklet_id: str | None
    owner_id: str | None
    issued_at: float | None = None
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of_worklet(cls, worklet_id: str) -> Caller:
        """For trusted code in the same process, which acts as the worklet."""
        return cls("worklet", worklet_id, None)

    def claims(self) -> dict[str, Any]:
        """What PostgREST would put into `request.jwt.claims`."""
        claims: dict[str, Any] = {"role": self.role, "sub": self.worklet_id or self.owner_id}
        if self.worklet_id is not None:
            claims["worklet_id"] = self.worklet_id
        if self.issued_at is not None:
            claims["iat"] = self.issued_at
        return claims

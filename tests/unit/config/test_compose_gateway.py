"""The deployment that `compose.yaml` describes, as far as what the program promises depends on it."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_the_gateway_sees_the_machines_own_networks() -> None:
    """In a network of its own it would keep worklets from Docker's addresses only."""
    gateway = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["gateway"]
    assert gateway["network_mode"] == "host"
    assert not {"ports", "networks"} & set(gateway)

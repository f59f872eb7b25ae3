"""The outside world where agents run: runtimes, relay, image, gateway. Knows nothing of sessions, Slack or HTTP."""

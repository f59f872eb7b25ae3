"""The heart: threads, turns, transcripts, leases, the reaper. No Slack, HTTP or Docker in it."""

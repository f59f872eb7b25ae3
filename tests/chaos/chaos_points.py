"""The named points at which the program is killed: before and after each thing that must not be lost or done twice."""

from __future__ import annotations

#: Reached while people talk to it.
WORKING = (
    "sessions.store:Store.submit:call",  # heard, not stored
    "sessions.store:Store.submit:return",  # stored, not acknowledged
    "sessions.manager:Sessions.submit:return",
    "sessions.holdings:Holdings.acquire:return",  # the lease is taken
    "sessions.poolstore:PoolStore.claim:return",  # a worklet may be taken, nobody has told it whose it is
    "worklets.host:WorkletHost.open:call",
    "worklets.host:WorkletHost.open:return",  # the worklet runs, no row says so
    "sessions.store:Store.begin:call",
    "sessions.store:Store.begin:return",  # said to have begun, the prompt is not sent
    "worklets.agent:Agent.send:call",
    "worklets.agent:Agent.send:return",
    "sessions.transcript:Transcript.append:call",  # Claude has spoken, it is not stored
    "sessions.transcript:Transcript.append:return",
    "bot.store:MessageStore.intend:return",  # about to post
    "bot.delivery:Delivery.post:call",
    "bot.delivery:Delivery.post:return",  # posted, its ts is not stored
    "bot.store:MessageStore.shown:call",
    "bot.store:MessageStore.shown:return",
    "bot.delivery:Delivery.edit:call",
    "bot.delivery:Delivery.edit:return",
    "bot.show:Show._opened:call",  # the root is posted, the session knows no thread
    "sessions.store:Store.opened:return",
    "sessions.store:Store.settle:call",  # answered, not settled
    "sessions.store:Store.settle:return",
    "bot.show:Show._delivered:call",  # shown, not said to be
    "sessions.store:Store.mark_delivered:return",
    "worklets.rest:rest:call",
    "worklets.rest:rest:return",  # Claude's process has ended, its container runs
    "worklets.host:WorkletHost.close:call",
    "worklets.host:WorkletHost.close:return",  # ended, the row does not say so
    "sessions.store:Store.set_state:return",
)

#: Those that a run comes by once at most.
SELDOM = (
    "sessions.store:Store.submit",
    "sessions.manager:Sessions.submit",
    "sessions.store:Store.opened",
    "sessions.poolstore:PoolStore.claim",
    "worklets.rest:rest",
    "worklets.rest:wake",
    "worklets.spare:bind",
    "worklets.secretstokens",
    "sessions.vaulttokens",
    "sessions.previews",
    "bot.show:Show._opened",
    "worklets.host:WorkletHost",
)

#: Reached while it starts with work left over: it dies a second time.
RECOVERING = (
    "sessions.reaper:Reaper.recover:call",
    "sessions.reaper:Reaper.recover:return",
    "sessions.telling:Telling.catch_up:return",
    "sessions.holdings:Holdings.acquire:return",
    "bot.store:MessageStore.of_turn:return",
    "bot.delivery:Delivery.find:call",
    "bot.delivery:Delivery.find:return",
    "worklets.host:WorkletHost.open:return",
    "sessions.store:Store.begin:return",
    "worklets.agent:Agent.send:call",
    "sessions.transcript:Transcript.append:return",
    "bot.delivery:Delivery.edit:return",
    "sessions.store:Store.settle:return",
)

#: At which a process stands still until its leases have run out: what it was about to do comes late.
PAUSING = (
    "bot.delivery:Delivery.post:call",
    "bot.delivery:Delivery.post:return",
    "bot.delivery:Delivery.edit:call",
    "bot.delivery:Delivery.edit:return",
    "bot.delivery:Delivery.start_stream:call",
    "bot.delivery:Delivery.append_stream:call",
    "bot.delivery:Delivery.stop_stream:call",
    "worklets.agent:Agent.send:call",
    "worklets.host:WorkletHost.open:call",
    "sessions.transcript:Transcript.append:call",
    "sessions.store:Store.settle:call",
)

#: Reached while worklets push, reach hosts, get secrets and are handed out.
TRUST = (
    "sessions.pushing:Pushes._ask:call",  # the gateway has told of a push, nobody knows
    "sessions.pushing:Pushes._pass:call",  # a rule lets it through, and no audit says so
    "sessions.pushing:Pushes._pass:return",  # the audit has it, the gateway was not told
    "sessions.pushing:Pushes.decided:return",
    "sessions.egress:Egress._ask:call",  # the gateway has told of a host, nobody knows
    "sessions.egress:Egress._tell:call",  # decided, the gateway was not told
    "sessions.egress:Egress._tell:return",
    "sessions.askstore:AskStore.open:return",  # asked in the table, not in the thread
    "sessions.askstore:AskStore.decide:call",
    "sessions.askstore:AskStore.decide:return",  # decided, nobody has heard
    "sessions.previews:Previews.announce:return",  # noted, not offered
    "sessions.previews:Previews.claim:return",
    "sessions.previews:Previews.posted:call",  # offered, its ts is not stored
    "sessions.vaulttokens:VaultTokens.add:call",
    "sessions.vaulttokens:VaultTokens.add:return",  # in the books; Vault may not have made it yet
    "worklets.secretstokens:SessionTokens.issue:return",  # made, no worklet has it
    "worklets.secretstokens:SessionTokens._revoke:call",
    "worklets.secretstokens:SessionTokens._revoke:return",  # revoked, the books have it still
    "worklets.spare:bind:call",
    "worklets.spare:bind:return",  # a worklet of the pool knows whose it is
    "worklets.rest:wake:call",
    "worklets.rest:wake:return",
)

"""The named points at which the program is killed: before and after each thing that must not be lost or done twice."""

from __future__ import annotations

#: Reached while people talk to it.
WORKING = (
    "sessions.store:Store.submit:call",  # heard, not stored
    "sessions.store:Store.submit:return",  # stored, not acknowledged
    "sessions.manager:Sessions.submit:return",
    "sessions.holdings:Holdings.acquire:return",  # the lease is taken
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
    "worklets.host:WorkletHost.close:call",
    "worklets.host:WorkletHost.close:return",  # ended, the row does not say so
    "sessions.store:Store.set_state:return",
)

#: Those that a run comes by once at most.
SELDOM = (
    "sessions.store:Store.submit",
    "sessions.manager:Sessions.submit",
    "sessions.store:Store.opened",
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

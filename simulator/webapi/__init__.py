"""The Web API: `/api/<method>`; importing the families registers their methods."""

from simulator.webapi import agents, blocks, chat, conversations, files, identity, reactions, streams, users, views

__all__ = ["agents", "blocks", "chat", "conversations", "files", "identity", "reactions", "streams", "users", "views"]

"""`flow relay`: any process that speaks lines on stdin and stdout, offered over WebSocket. docs/relay.md is its manual.

protocol.py    the frames, and what a reader is told
journal.py     worklets/relay/journal.py with a limit in bytes
output.py      what the process said, numbered, and what was told in between
readers.py     who reads, how far each of them is
process.py     one life of the process;  supervisor.py  its lives, one after the other
server.py      the connections;  access.py  token, addresses, certificates
client.py      RelayClient: one who reads, writes and calls, whatever the connection does
connect.py     the way back: WebSocket → stdin and stdout;  mcp.py  the same for `mcp.ClientSession`
"""

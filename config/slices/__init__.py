"""Every setting, declared once where its subject is: name, default, meaning, checks.

    slack.py     the connection, and how threads look
    people.py    who may use Flow, who is asked, what it may cost
    sessions.py  the model, sessions, worklets, files
    isolation.py what a worklet may use of the machine
    kv.py        the worklets' key-value store
    server.py    HTTP, the relay, logs, what is masked

A new setting is one attribute in one of them, and a line in docs/settings.md (a test asks for it).
"""

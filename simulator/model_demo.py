"""What the scripted model answers to a prompt without directives. Pure."""

from __future__ import annotations

from simulator.model_request import Conversation
from simulator.model_script import HELP, CallTool, Say, Step, Think, words

_DELAY = 0.03  # seconds a word: about the pace of a real answer

_ANSWER = """\
### I am the scripted model

No real Claude is behind this demo: {asked} Everything around me is real, \
though: the Claude Code CLI runs here, and it has just run `ls -la` for me, which printed {lines}.

A real model would now

- read the code that you mean,
- change it in small steps, and run the tests after each,
- show you what it did:

```python
def total(prices: list[float]) -> float:
    return sum(prices)
```

Write lines like these and I do what they say:

```
{help}
```
"""


def answer(conversation: Conversation) -> list[Step]:
    """A look around with a tool first, then a Markdown answer that says what it is."""
    if not conversation.results:
        return [
            Think("I am a script: I look at the workspace, then explain myself."),
            Say(words("Let me look at the workspace first."), _DELAY),
            CallTool("Bash", {"command": "ls -la", "description": "List the workspace"}),
        ]
    count = len(conversation.earlier) + 1
    asked = f"you wrote “{_short(conversation.prompt)}”, message {count} of our conversation, and I follow a script."
    printed = len(conversation.results[0].splitlines())
    lines = f"{printed} line{'' if printed == 1 else 's'}"
    return [Say(words(_ANSWER.format(asked=asked, lines=lines, help=HELP).strip()), _DELAY)]


def side_answer() -> list[Step]:
    """For the CLI's own requests."""
    return [Say(('{"title": "Scripted conversation"}',))]


def recall(conversation: Conversation) -> str:
    """All earlier texts of the conversation, numbered."""
    if not conversation.earlier:
        return "I remember nothing before this message."
    return "I remember:\n" + "\n".join(f"{i}. {text}" for i, text in enumerate(conversation.earlier, 1))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"

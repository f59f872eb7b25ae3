"""What can go wrong with a worklet.

WorkletError
├── RuntimeUnavailable     the Docker engine, or its machine's gate, does not answer
├── ImageMissing
├── WorkletStartFailed
├── CloneFailed
├── AgentGone              the relay or its process is lost; resume in a new worklet
├── AgentRefused           the CLI answered a control request with an error
└── NoCredential
"""

from config.errors import FlowError


class WorkletError(FlowError):
    """The worklet failed."""


class RuntimeUnavailable(WorkletError):
    """The Docker engine does not answer."""

    suggestion = "Start it (`systemctl start docker`) or set FLOW_RUNTIME=local, then run `flow doctor`."


class ImageMissing(WorkletError):
    """The worklet image is missing."""

    suggestion = "Build it with `flow image build`."


class WorkletStartFailed(WorkletError):
    """The worklet did not start."""

    suggestion = "Run `flow doctor`; send the message again when it is mended."


class CloneFailed(WorkletError):
    """The repository could not be cloned."""

    suggestion = "Check the address and the branch, then write again."


class AgentGone(WorkletError):
    """Claude's process or its container ended unexpectedly."""

    suggestion = "Write again: the conversation goes on from where it stood."


class AgentRefused(WorkletError):
    """Claude did not do what it was told."""


class NoCredential(WorkletError):
    """No Claude credential is configured."""

    suggestion = "Set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN and restart Flow."

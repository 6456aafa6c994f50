"""Locks itself up, then runs a program: the child process of `penstock.meter.sandbox`.

Run by path with `python -I -S`, so it imports nothing but the standard library,
and no part of Penstock. It reads one JSON object from standard input, writes
JSON lines to the descriptor it was given (first which protections hold, then how
the program ended), and never returns to a shell.

Three walls, each of which holds without the others, where the kernel has them:
an own user, network and IPC namespace (man 7 namespaces); Landlock (man 7
landlock), which leaves Python's library to read and the scratch folder to
write; and a seccomp filter (man 2 seccomp) without sockets, processes,
threads, signals and system administration. Constants are those of
the kernel's headers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys
import types
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWUSER, _CLONE_NEWIPC, _CLONE_NEWNET = 0x10000000, 0x08000000, 0x40000000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_CAPABILITY_VERSION_3 = 0x20080522

# Landlock's rights on files; those from a later ABI than the kernel's are left out.
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_READ = _READ_FILE | _READ_DIR
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_CHANGE = _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE
_ALL_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_SINCE_5 = (1 << 16) - 1

# What no answer needs: (x86-64, AArch64) numbers; None where there is no such call.
_FORBIDDEN: dict[str, tuple[int, int | None]] = {
    # processes and threads
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # sockets, and what could open one behind the filter's back
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # other processes
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    # what lives on in the kernel
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # administration
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    # attributes of files, which Landlock does not guard
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _syscall(number: int, *arguments: Any) -> int:
    return _checked(int(_libc.syscall(number, *arguments)))


def enter_namespaces() -> None:
    """Go where there is no network interface and no other user; raises `OSError`."""
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWIPC | _CLONE_NEWNET))
    for file, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(text)
    with open("/proc/self/uid_map", "w") as out:
        out.write(f"{uid} {uid} 1")


def drop_capabilities() -> None:
    """Give up every capability, those in the new namespace included."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, bytes(24)))


def restrict_files(readable: list[str], scratch: str) -> None:
    """Landlock: read below `readable`, read and write below `scratch`, no TCP; raises `OSError`."""
    abi = _syscall(444, None, 0, 1)
    handled = _ALL_OF_ABI.get(abi, _ALL_SINCE_5)
    # Connecting and binding from ABI 4, abstract sockets and signals from ABI 6.
    attributes = struct.pack("QQQ", handled, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _syscall(444, attributes, len(attributes), 0)
    for path, rights in [
        *((path, _READ) for path in readable),
        ("/dev/null", _READ_FILE | _WRITE_FILE),
        ("/dev/urandom", _READ_FILE),
        (scratch, _READ | _CHANGE),
    ]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # not every system has a /lib64
        if not os.path.isdir(path):
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        _syscall(445, ruleset, 1, struct.pack("=Qi", rights & handled, fd), 0)
        os.close(fd)
    _syscall(446, ruleset, 0)
    os.close(ruleset)


def forbid_calls() -> None:
    """Install the seccomp filter: the forbidden calls fail with EPERM; raises `OSError`."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no filter is known for {machine}")
    column = list(_AUDIT_ARCH).index(machine)
    numbers = sorted({n for pair in _FORBIDDEN.values() if (n := pair[column]) is not None})

    def line(code: int, jump_true: int, jump_false: int, k: int) -> bytes:
        return struct.pack("HBBI", code, jump_true, jump_false, k)

    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    program = [
        line(load, 0, 0, 4),  # the architecture of the call
        line(equal, 1, 0, _AUDIT_ARCH[machine]),
        line(give, 0, 0, 0x80000000),  # another one's calls have other numbers: kill
        line(load, 0, 0, 0),  # the call's number
        line(at_least, len(numbers) + 1, 0, 0x40000000),  # x32, and nothing else
        *(line(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        line(give, 0, 0, 0x7FFF0000),  # allow
        line(give, 0, 0, 0x00050000 | errno.EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, filter_, 0, 0))


def limit_resources(limits: dict[str, int]) -> None:
    """CPU time in s, address space and file size in bytes, open files; no core, no process."""
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))


def lock_up(
    wanted: list[str], readable: list[str], scratch: str, limits: dict[str, int]
) -> dict[str, str]:
    """Raise the wanted walls; returns what is in the way of each: "" if it stands."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    walls = {}
    for name, raise_wall in (
        ("namespaces", enter_namespaces),
        ("landlock", lambda: restrict_files(readable, scratch)),
        ("capabilities", drop_capabilities),
        ("rlimits", lambda: limit_resources(limits)),
        ("seccomp", forbid_calls),
    ):
        if name not in wanted:
            continue
        try:
            raise_wall()
            walls[name] = ""
        except OSError as error:
            walls[name] = str(error)
    return walls


def main() -> None:
    """Read the order, lock up, run."""
    order = json.load(sys.stdin)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    status: int = order["status_fd"]

    def tell(**what: object) -> None:
        os.write(status, json.dumps(what).encode() + b"\n")

    walls = lock_up(order["walls"], order["readable"], os.getcwd(), order["limits"])
    tell(walls=walls)
    if missing := [name for name in order["required"] if walls[name]]:
        tell(lost=", ".join(missing))
        os._exit(1)
    try:
        # Not under this file's own __future__ imports, nor among its names.
        code = compile(order["program"], "answer.py", "exec", dont_inherit=True)
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = ["answer.py"]
        exec(code, module.__dict__)
    except SystemExit:
        tell(error="SystemExit: the program left before its tests were over")
    except BaseException as error:  # whatever an answer may raise, it is a wrong answer
        text = ""
        with contextlib.suppress(Exception):  # its __str__ is untrusted as well
            text = str(error)
        tell(error=f"{type(error).__name__}: {text}"[:500])
    else:
        tell(done=order["nonce"])
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

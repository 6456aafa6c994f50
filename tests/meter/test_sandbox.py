"""Programs that try to run away, out, or for ever; each is really run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.meter import sandbox
from penstock.meter.sandbox import Limits, SandboxRefused, run, try_out

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

QUICK = Limits(cpu_s=1, wall_s=20.0)


@pytest.fixture(scope="module", autouse=True)
def safe_here():
    missing = sandbox.protections().missing
    if missing:
        pytest.skip(f"this kernel leaves open: {missing}")


def test_a_good_program_passes_and_its_output_is_shown():
    result = run("import math, typing, hashlib, re\nprint(math.factorial(5))")
    assert (result.error, result.output) == (None, "120\n")


def test_a_program_runs_as_it_would_by_itself():
    program = (
        "import sys, dataclasses, typing\n"
        "assert __name__ == '__main__' and vars(sys.modules['__main__']) is globals()\n"
        "assert not {'main', 'lock_up', '_libc'} & set(globals())\n"
        "@dataclasses.dataclass\nclass A:\n  x: 'B'\n"
        "class B: pass\n"
        "assert typing.get_type_hints(A) == {'x': B}\n"
    )
    assert run(program).error is None
    # Annotations are evaluated, as they are without a __future__ import.
    assert run("def f(x: Nowhere): pass").error.startswith("NameError")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended before its tests were over"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("class E(Exception):\n  def __str__(self): raise self\nraise E", "E: "),
    ],
)
def test_what_does_not_reach_its_end_has_failed(program, error):
    assert error in run(program).error


def test_a_claim_of_success_on_the_status_line_is_not_believed():
    claim = 'import os\nfor fd in range(3, 32):\n  try: os.write(fd, b\'{"done": "yes"}\\n\')\n'
    assert run(claim + "  except OSError: pass\nos._exit(0)").error is not None


def test_a_loop_is_stopped_by_its_cpu_time():
    assert run("while True: pass", QUICK).error == "time: more than 1 s of CPU"


def test_a_sleeper_is_stopped_by_the_wall_clock():
    result = run("import time; time.sleep(60)", Limits(wall_s=1.5))
    assert result.error == "time: still running after 1.5 s"
    assert result.seconds < 15  # on a busy machine


def test_a_program_deaf_to_signals_is_killed_all_the_same():
    deaf = "import signal\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n"
    result = run(f"{deaf}  except (OSError, ValueError): pass\nwhile True: pass", QUICK)
    assert result.error.startswith("time: ")


@pytest.mark.parametrize(
    "bomb", ["x = 'a' * 10**11", "x = []\nwhile True: x.append(bytearray(10**7))"]
)
def test_a_memory_bomb_meets_its_limit(bomb):
    assert run(bomb).error.startswith("MemoryError")


def test_recursion_has_an_end():
    assert run("def f(): f()\nf()").error.startswith("RecursionError")


@pytest.mark.parametrize(
    "attempt",
    [
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "assert os.system('true') == 0",
        "threading.Thread(target=print).start()",
        "multiprocessing.Process(target=print).start()",
    ],
)
def test_no_process_and_no_thread(attempt):
    result = run(f"import os, subprocess, threading, multiprocessing\n{attempt}")
    assert result.error.startswith(("PermissionError", "RuntimeError", "AssertionError"))


def test_a_fork_bomb_never_goes_off():
    bomb = "import os\nwhile True:\n  try: print('forked', os.fork(), flush=True)\n"
    result = run(bomb + "  except OSError: pass", QUICK)
    assert result.error.startswith("time: ")
    assert "forked" not in result.output


def test_unsafe_children_of_the_same_session_die_with_it():
    """Even where nothing else holds, a child does not outlive the answer."""
    program = (
        "import os, time\npid = os.fork()\nif pid == 0:\n  time.sleep(60)\nprint(pid, flush=True)"
    )
    result = sandbox._run(program, Limits(), walls=())
    assert result.error is None
    assert _is_gone(int(result.output))


def test_no_network_not_even_a_local_listener():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)")
        assert result.error.startswith("PermissionError")
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_files_only_in_a_scratch_folder_that_is_deleted():
    result = run(
        "import os\nopen('a', 'w').write('x')\nos.mkdir('d')\nos.rename('a', 'b')\n"
        "assert open('b').read() == 'x'\nos.remove('b')\nopen('left', 'w')\nprint(os.getcwd())"
    )
    assert result.error is None
    assert not Path(result.output.strip()).exists()


@pytest.mark.parametrize(
    "attempt",
    [
        "open({path!r}).read()",
        "open({path!r}, 'w')",
        "os.unlink({path!r})",
        "os.rename({path!r}, 'mine')",
        "os.link({path!r}, 'mine')",
        "os.chmod({path!r}, 0o777)",
        "os.utime({path!r}, (0, 0))",
        "os.truncate({path!r}, 0)",
        "os.listdir({folder!r})",
        "open({folder!r} + '/new', 'w')",
        "os.symlink({path!r}, 'mine'); open('mine').read()",
        "open('/etc/passwd').read()",
        "open('/proc/self/mem', 'wb')",
        "os.listdir('/proc')",
    ],
)
def test_no_file_elsewhere(attempt, tmp_path):
    path = tmp_path / "precious"
    path.write_text("x")
    before = path.stat()
    attempt = attempt.format(path=str(path), folder=str(tmp_path))
    assert run(f"import os\n{attempt}").error.startswith(("PermissionError", "OSError"))
    assert path.read_text() == "x"
    assert path.stat().st_mode == before.st_mode
    assert path.stat().st_mtime == before.st_mtime
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_flood_of_output_is_bounded():
    flood = "while True:\n  try: print('x' * 10**6, flush=True)\n  except OSError: pass"
    result = run(flood, QUICK)
    assert result.error.startswith("time: ")
    assert len(result.output) <= 4_000


def test_a_file_is_bounded():
    result = run("open('big', 'wb').write(bytes(2**21))", Limits(file_bytes=1 << 20))
    assert result.error.startswith("OSError: [Errno 27]")


@pytest.mark.parametrize("victim", ["os.getppid()", "-1", "{other}"])
def test_no_signal_reaches_anybody_else(victim):
    other = subprocess.Popen(["sleep", "60"])
    try:
        attempt = f"os.kill({victim.format(other=other.pid)}, 9)"
        assert run(f"import os\n{attempt}").error.startswith("PermissionError")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_environment_is_empty_and_no_package_is_there():
    os.environ["PENSTOCK_SECRET"] = "x"
    try:
        result = run(
            "import os, sys\nassert set(os.environ) <= {'LC_CTYPE'}, os.environ\n"
            "assert not any('site-packages' in p for p in sys.path)\n"
            "assert sys.stdin.read() == ''"
        )
    finally:
        del os.environ["PENSTOCK_SECRET"]
    assert result.error is None


def test_packages_are_there_where_they_are_asked_for():
    assert run("import msgspec", site=True).error is None
    assert run("import msgspec").error.startswith("ModuleNotFoundError")


@pytest.mark.parametrize(
    ("wall", "stopped"),
    [
        ("seccomp", {"network", "processes"}),
        ("landlock", {"network", "files"}),
        ("namespaces", {"network"}),
        ("rlimits", set()),
    ],
)
def test_each_wall_holds_alone_and_no_more_is_claimed(wall, stopped):
    """The probe sees what is open: it does not repeat what it was told."""
    found = try_out([wall])
    if found.walls[wall]:
        pytest.skip(found.walls[wall])
    # As root the kernel counts no processes; as another user RLIMIT_NPROC stops forks.
    assert (
        stopped
        <= {"network", "processes", "files"} - set(found.missing)
        <= stopped | ({"processes"} if os.geteuid() else set())
    )


def test_nothing_runs_where_something_is_open(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "protections", lambda: try_out(["namespaces", "rlimits"]))
    trace = tmp_path / "ran"
    with pytest.raises(SandboxRefused, match="files cannot be shut.*--unsafe-sandbox"):
        run(f"open({str(trace)!r}, 'w')")
    assert not trace.exists()


def test_a_wall_that_falls_later_ends_the_sandbox():
    with pytest.raises(RuntimeError, match="did not start"):
        sandbox._run("print(1)", Limits(open_files=-7), required=["rlimits"])


def _is_gone(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from catchment.cli import main, workspace
from catchment.core.errors import CatchmentError, Conflict, Corrupt, Invalid, NotFound, Unavailable

PROGRAM = Path(sys.executable).with_name("catchment")
# Neither measured nor kept from caching what it compiles: as people run it.
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTHON"))}

# What costs more to import than the whole budget of --help.
HEAVY = [
    "boto3",
    "dask",
    "distributed",
    "duckdb",
    "fastparquet",
    "numpy",
    "obstore",
    "pandas",
    "polars",
    "pyarrow",
    "rich",
    "sqlalchemy",
]


@pytest.fixture
def failing(monkeypatch):
    """Makes ``catchment doctor`` raise an error."""

    def fail(error: BaseException) -> None:
        def look(path, settings=None, flags=None):
            raise error

        monkeypatch.setattr("catchment.core.workspace.Workspace.open", look)

    return fail


def test_help_takes_less_than_a_quarter_of_a_second_of_cpu():
    def cpu() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([PROGRAM, "--help"], env=PLAIN, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu() for _ in range(5)) < 0.25


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["--help"], ["catchment.cli.workspace", "catchment.tables", "catchment.exports"]),
        (["run", "--help"], ["catchment.tables", "catchment.exports"]),
        (["init", "--help"], ["catchment.tables", "catchment.exports", "catchment.core.ledger"]),
    ],
)
def test_help_imports_nothing_heavy(arguments, others):
    code = (
        "import sys, json\n"
        "from catchment.cli.main import run\n"
        "code = run(json.loads(sys.argv[1]))\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env=PLAIN,
        check=True,
        capture_output=True,
        text=True,
    )
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert not set(modules) & {*HEAVY, *others}


def test_garbage_is_looked_for_as_ever_once_a_workspace_is_open():
    """While modules are loaded hardly any is, and what they made is not looked at again."""
    told = """
import gc, os
usual = gc.get_threshold()
from catchment.cli import loading, place
from catchment.cli.output import Output
loading.load_quickly()
assert gc.get_threshold()[0] > 100 * usual[0] and gc.get_threshold()[1:] == usual[1:]
assert os.environ["PYDANTIC_DISABLE_PLUGINS"] == "__all__"
place.open_workspace(Output(), "memory:///")
assert gc.get_threshold() == usual and gc.get_freeze_count() > 10_000
kept = gc.get_freeze_count()
place.open_workspace(Output(), "memory:///")  # a program that was not begun like that
assert gc.get_freeze_count() <= kept
"""
    subprocess.run([sys.executable, "-c", told], env=PLAIN, check=True)


def test_a_program_that_calls_commands_keeps_its_own_garbage(tmp_path):
    """Only what begins as the program itself leaves what was loaded out of every later look."""
    told = """
import gc
from catchment.cli.main import main
kept, usual = gc.get_freeze_count(), gc.get_threshold()
for words in (["init", "new"], ["-w", "new", "status"]):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0
assert (gc.get_freeze_count(), gc.get_threshold()) == (kept, usual)
"""
    subprocess.run([sys.executable, "-c", told], env=PLAIN, check=True, cwd=tmp_path)


def test_what_is_near_is_told(catchment):
    told = catchment("tabels", "run")
    assert (told.code, told.err.splitlines()[0]) == (
        2,
        "error: No such command 'tabels'. Did you mean 'tables'?",
    )
    assert "mean" not in catchment("frobnicate").err


def test_help_names_every_command_with_its_own_words(catchment):
    text = catchment("--help").out
    assert catchment().out == text
    for name in (*main.COMMANDS, *main.GROUPS):
        assert f"  {name} " in text
    apps = [
        workspace.app,
        *(import_module(f"catchment.cli.{m}").app for m in set(main.MODULES.values())),
    ]
    registered = [command for app in apps for command in app.registered_commands]
    for command in registered:
        assert main.COMMANDS[command.callback.__name__] == command.callback.__doc__.split("\n")[0]
    assert len(registered) == len(main.COMMANDS)


@pytest.mark.parametrize("group", main.GROUPS)
def test_no_line_of_help_is_cut(catchment, group):
    assert "...\n" not in catchment(group, "--help").out.partition("Options:")[2]


def test_version(catchment):
    called = catchment("--version")
    assert (called.code, called.out) == (0, "0.1.0\n")


def test_global_options_stand_before_or_after_a_command(catchment, tmp_path):
    catchment("init", "a")
    one = catchment("--json", "--workspace", "a", "config")
    other = catchment("config", "-w", tmp_path / "a" / "catchment.toml", "--json")
    assert one.code == other.code == 0
    assert one.json == other.json
    assert "--json" in catchment("config", "--help").out


def test_the_last_workspace_wins_over_the_environment(catchment, monkeypatch):
    for name in "abc":
        catchment("init", name)
    monkeypatch.setenv("CATCHMENT_WORKSPACE", "a")
    monkeypatch.setenv("CATCHMENT_TABLES__MAIN__STRICT", "1")
    called = catchment("--json", "-w", "b", "config")
    assert called.json["workspace.store"]["value"].endswith("/b/data")
    assert called.json["tables.main.strict"] == {"value": True, "from": "environment"}
    assert (
        catchment("-w", "b", "config", "-w", "c", "--json")
        .json["workspace.store"]["value"]
        .endswith("/c/data")
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("m", kind="k", hint="h"), 2),
        (NotFound("m", kind="k", hint="h"), 3),
        (Conflict("m", kind="k", hint="h"), 4),
        (Unavailable("m", kind="k", hint="h"), 5),
        (Corrupt("m", kind="k", hint="h"), 6),
        (CatchmentError("m", kind="k", hint="h"), 1),
    ],
)
def test_an_error_becomes_an_exit_code_and_two_lines(catchment, failing, error, code):
    failing(pickle.loads(pickle.dumps(error)))
    called = catchment("doctor")
    assert (called.code, called.out, called.err) == (code, "", "error: m\nhint: h\n")
    called = catchment("doctor", "--json")
    assert (called.code, called.err) == (code, "")
    assert called.json == {"error": {"kind": "k", "message": "m", "hint": "h"}}


def test_an_error_without_a_hint(catchment, failing):
    failing(Invalid("m"))
    assert catchment("doctor").err == "error: m\n"


def test_an_error_does_not_command_the_terminal(catchment, failing):
    failing(Invalid("site \x1b]0;owned\x07 \u202etxt \x9b31m\nsecond \r line", hint="\x1b[2J"))
    err = catchment("doctor").err
    assert err == (
        "error: site \\x1b]0;owned\\x07 \\u202etxt \\x9b31m\nsecond \\r line\nhint: \\x1b[2J\n"
    )


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["bogus"], "catchment --help"),
        (["--bogus"], "catchment --help"),
        (["config", "--bogus"], "catchment config --help"),
        (["gc", "--grace", "x"], "catchment gc --help"),
        (["tables"], "catchment tables --help"),
    ],
)
def test_wrong_usage(catchment, arguments, hint):
    called = catchment(*arguments)
    assert called.code == 2
    assert called.err.startswith("error: ")
    assert called.err.endswith(f"\nhint: {hint}\n")
    assert "Usage:" not in called.err
    called = catchment(*arguments, "--json")
    assert (called.code, called.err) == (2, "")
    assert called.json["error"]["kind"] == "usage"


class Panic(BaseException):
    """As native libraries raise, outside of Exception."""


@pytest.mark.parametrize("fault", [ZeroDivisionError("secret"), Panic("secret")])
def test_a_fault_of_our_own_is_short_and_its_log_holds_no_values(catchment, failing, fault):
    failing(fault)
    called = catchment("doctor")
    assert called.code == 70
    assert called.err.startswith(f"error: a fault of the program itself ({type(fault).__name__})\n")
    log = Path(called.err.strip().rpartition(" ")[2])
    text = log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    log.unlink()
    assert "in doctor" in text
    assert "secret" not in called.err + text
    assert "Traceback" not in called.err


def test_a_path_that_cannot_be_is_no_fault_of_the_program(tmp_path, catchment):
    """Only one that the arguments name: of others, nobody could tell what to do."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", Path("/proc/none/of/this")):
        called = catchment("init", str(place))
        assert called.code == 2
        assert f"{place.parts[1]}/" in called.err
        assert "path-unusable" in catchment("init", str(place), "--json").out


def test_a_path_that_nobody_named_is_a_fault_of_the_program(catchment, failing):
    failing(FileNotFoundError(errno.ENOENT, "gone", "/elsewhere/secret"))
    called = catchment("doctor")
    assert called.code == 70
    assert "secret" not in called.err


def test_a_full_disk_is_no_fault_of_our_own(catchment, failing):
    failing(OSError(errno.ENOSPC, "x"))
    called = catchment("doctor")
    assert called.code == Unavailable.exit_code
    assert called.err.startswith("error: no space left on a disk\nhint: make room")


def test_the_log_of_a_fault_holds_its_causes(catchment, failing):
    fault = KeyError("secret")
    fault.__cause__ = OSError("secret")
    failing(fault)
    log = Path(catchment("doctor").err.strip().rpartition(" ")[2])
    assert "KeyError\n" in log.read_text()
    assert "OSError\n" in log.read_text()
    log.unlink()


def test_debugging_shows_the_traceback(catchment, failing, monkeypatch):
    monkeypatch.setenv("CATCHMENT_DEBUG", "1")
    failing(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        catchment("doctor")


def test_an_interrupt_is_130(catchment, failing):
    failing(KeyboardInterrupt())
    called = catchment("doctor")
    assert (called.code, called.out) == (130, "")
    assert called.err.startswith("error: interrupted; ")


WAITS = """import signal, sys, time
from catchment.cli.main import main
from catchment.core.workspace import Workspace

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
Workspace.open = lambda *_: (print("here", flush=True), time.sleep(60))
sys.argv = ["catchment", "doctor"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_in_order(number):
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "here\n"
        child.send_signal(number)
        told = child.communicate()[1]
    assert child.returncode == 130
    assert told.startswith("error: interrupted; ")
    assert "Traceback" not in told


def test_an_exit_stays_an_exit(catchment, failing):
    failing(SystemExit(9))
    with pytest.raises(SystemExit):
        catchment("doctor")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["config", "--json"], ["config"]])
def test_a_reader_that_goes_away_is_no_fault(tmp_path, catchment, arguments, unbuffered):
    catchment("init")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [PROGRAM, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


def test_the_program_is_installed():
    done = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == "0.1.0\n"


def test_log_records_follow_verbosity_and_are_plain(catchment, failing, capsys):
    log = logging.getLogger("catchment.test")

    def speak(*options: str) -> str:
        catchment("--version", *options) if not options else catchment(*options, "init", "x")
        capsys.readouterr()
        log.error("e\x1b")
        log.warning("w")
        log.info("i")
        log.debug("d")
        logging.getLogger("foreign").error("f")
        return capsys.readouterr().err

    assert speak("-q") == "ERROR catchment.test: e\\x1b\n"
    assert speak() == "ERROR catchment.test: e\\x1b\nWARNING catchment.test: w\n"
    assert speak("-v").splitlines()[2:] == ["INFO catchment.test: i"]
    assert speak("-vv").splitlines()[3:] == ["DEBUG catchment.test: d"]

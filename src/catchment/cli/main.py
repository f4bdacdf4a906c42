"""The command line: global options, commands that load when they are called, errors as exit codes.

Exit codes: 0 well, 1 a check found faults, 2 :class:`Invalid` or wrong usage, 3 :class:`NotFound`,
4 :class:`Conflict`, 5 :class:`Unavailable`, 6 :class:`Corrupt`, 70 a fault of the program itself,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command, get_group

from catchment.cli.loading import load_quickly
from catchment.cli.output import UNEXPECTED, Output, unexpected
from catchment.core.errors import CatchmentError, Invalid, Unavailable

# Names and one line of help each; the module catchment.cli.<name> is loaded when it is called.
GROUPS = {
    "site": "Who may upload for which site.",
    "user": "Who may look at the pages, and who did what there.",
    "key": "Who may read the dashboard API.",
    "tables": "Center datasets become table snapshots.",
    "exports": "Streamed records become NDJSON files of bounded size.",
    "studies": "Sites upload data packages; they are merged, and released.",
    "imaging": "DICOM of many providers becomes joinable tables and images.",
    "flows": "The workspace under Dagster.",
    "arrays": "Sessions append to a Zarr store that only grows.",
}
# The same for commands: those of catchment.cli.workspace, or of the module that is named here.
MODULES = {
    "serve": "serve",
    "upload": "upload",
    "backup": "backup",
    "restore": "backup",
    "verify": "outside",
    "crate": "outside",
    "lineage": "outside",
}
COMMANDS = {
    "init": "Write a first catchment.toml, with an example center mapping.",
    "config": "Show the settings, resolved, without secrets.",
    "run": "Bring every aggregate of the workspace up to date.",
    "status": "What is published, what runs, and what needs attention.",
    "gc": "Remove what crashed or abandoned runs left behind.",
    "doctor": "Check the workspace; mend what follows from the ledger, the store, or a backup.",
    "backup": "Back up ledger and store, while runs go on.",
    "restore": "Make an empty workspace what a backup says, and prove it.",
    "verify": "Check that what is published, and who did what, is as it was written.",
    "crate": "Copy a snapshot into a folder to cite: an RO-Crate that Croissant readers open, too.",
    "lineage": "Tell what runs read and made, as events of OpenLineage.",
    "serve": "Serve the workspace over HTTP: pages, uploads of sites, charts, downloads.",
    "upload": "Send a study's packages to a coordinating center, and see what was accepted.",
}


INTERRUPTED = 130
STOPPED = CatchmentError(
    "interrupted; what was published before stands, the rest is not visible",
    kind="interrupted",
    hint="run the same command again",
)


class _Root(TyperGroup):
    """The root group: knows names and help of all commands, and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in GROUPS:
            command: Any = get_group(import_module(f"catchment.cli.{cmd_name}").app)
        elif cmd_name in COMMANDS:
            module = import_module(f"catchment.cli.{MODULES.get(cmd_name, 'workspace')}")
            found: Any = get_command(module.app)
            command = found.commands[cmd_name] if isinstance(found, TyperGroup) else found
            command.name = cmd_name
        else:
            return None
        self._add_common(command)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Commands load when they are called, so that what is near is looked for by name."""
        try:
            return super().resolve_command(ctx, args)
        except TyperException as error:
            if near := get_close_matches(args[0], self.list_commands(ctx), 1):
                error.message = f"{error.message.rstrip('.')}. Did you mean {near[0]!r}?"
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items(), *GROUPS.items()])

    def _add_common(self, command: Any) -> None:
        """The global options stand after a command, too; help is plain text."""
        command.rich_markup_mode = None
        if isinstance(command, TyperGroup):
            for one in command.commands.values():
                one.short_help = (one.help or "").split("\n\n")[0].replace("\n", " ")  # uncut
                self._add_common(one)
        elif isinstance(command, TyperCommand):
            command.params += [p for p in self.params if p.name != "version"]


def _set(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> None:
    """Keep a global option; one that is not given leaves what an earlier place said."""
    if value:
        setattr(ctx.obj, param.name or "", value)
        ctx.obj.log()


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(version("catchment"))
        raise typer.Exit


app = typer.Typer(
    cls=_Root,
    add_completion=False,
    rich_markup_mode=None,
    help="Many sites send health data; one place makes trustworthy datasets of it.",
)


@app.callback()
def common(  # noqa: D103 - the help is the app's
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            metavar="PATH",
            callback=_set,
            expose_value=False,
            help="Folder of the workspace, or its catchment.toml. Default: CATCHMENT_WORKSPACE, "
            "or the nearest above this folder.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", callback=_set, expose_value=False, help="Print JSON.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", callback=_set, expose_value=False, help="No progress, no notes."
        ),
    ] = False,
    verbosity: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            callback=_set,
            expose_value=False,
            help="Log more; -vv all.",
        ),
    ] = 0,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, expose_value=False, help="Print it."
        ),
    ] = False,
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """The program ``catchment``; ends with its exit code."""
    if arguments is None:  # else a program of somebody's calls, whose objects are its own matter
        load_quickly()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: runs end in order
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; says what went wrong on standard error."""
    output = Output()
    output.log()
    try:
        _check_empty(arguments, output)
        code = app(
            list(arguments) or ["--help"], prog_name="catchment", standalone_mode=False, obj=output
        )
        sys.stdout.flush()
    except CatchmentError as error:
        output.error(error)
        return error.exit_code
    except TyperException as error:
        output.json |= "--json" in arguments  # it may stand after the place of the fault
        output.error(_usage(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone, as `head` does; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit:
        raise
    except BaseException as error:  # native libraries panic outside of Exception
        if (told := _of_the_machine(error, arguments)) is not None:
            output.error(told)
            return told.exit_code
        if os.environ.get("CATCHMENT_DEBUG"):
            raise
        output.error(unexpected(error))
        return UNEXPECTED
    if code == INTERRUPTED:
        output.error(STOPPED)
    return code if isinstance(code, int) else 0


def _of_the_machine(error: BaseException, arguments: Sequence[str]) -> CatchmentError | None:
    """What is no fault of ours: a full disk, a path of the arguments that cannot be used."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(
            "no space left on a disk",
            kind="disk-full",
            hint="make room (df tells where), then run the same command again",
        )
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    place = Path(error.filename).absolute()
    words = [one.partition("=")[2] if one.startswith("-") else one for one in arguments]
    named = [Path(one).absolute() for one in words if "/" in one]  # or a folder on the way to it
    if not any(place.is_relative_to(one) or one.is_relative_to(place) for one in named):
        return None
    return Invalid(
        f"{error.filename}: {error.strerror}",
        kind="path-unusable",
        hint="look whether its folder is there, and may be written",
    )


def _check_empty(arguments: Sequence[str], output: Output) -> None:
    """No option takes an empty text: it is a variable of a shell that is not set."""
    for one, following in pairwise([*arguments, "-"]):
        option, equals, value = one.partition("=")
        if re.fullmatch("--?[a-z][a-z-]*", option) and not (value if equals else following):
            output.json |= "--json" in arguments
            raise Invalid(
                f"{option} is empty", kind="usage", hint="give it a value, or leave it out"
            )


def _usage(error: TyperException) -> CatchmentError:
    place = getattr(error, "ctx", None)
    path = place.command_path if place else "catchment"
    return CatchmentError(error.format_message(), kind="usage", hint=f"{path} --help")

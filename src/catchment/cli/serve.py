"""``catchment serve``: pages, the site API, the dashboard API and downloads, over HTTP."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.output import Output
from catchment.core.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from catchment.core.workspace import Workspace

app = typer.Typer(add_completion=False)

HEALTH = 30  # seconds after which a worker process that does not answer is killed: it may be busy
METRICS = "PROMETHEUS_MULTIPROC_DIR"  # of the Prometheus client, for worker processes
LOG_LEVEL = "CATCHMENT_LOG"  # for worker processes


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: any free one.")
    ] = 8000,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy",
            metavar="ADDRESS",
            help="A reverse proxy that ends TLS; its X-Forwarded headers are believed.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that serve side by side.")
    ] = 1,
) -> None:
    """Serve the workspace over HTTP: pages, uploads of sites, charts, downloads."""
    from catchment.core.workspace import Workspace

    output: Output = ctx.obj
    _check_tls(host, tls_cert, tls_key, proxy)
    with Workspace.open(output.workspace) as workspace:
        workspace.ledger.counts()  # settings and schema are well before anybody is let in
        token = _first_link(workspace) if _is_loopback(host) else ""
        if workspace.file is not None:  # for worker processes, whatever their current folder
            os.environ["CATCHMENT_WORKSPACE"] = str(workspace.file.absolute())
    options = {
        "workers": workers,
        "ssl_certfile": tls_cert,
        "ssl_keyfile": tls_key,
        "proxy_headers": proxy is not None,
        "forwarded_allow_ips": proxy,
    }
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        place = f"[{host}]" if ":" in host else host
        url = f"http{'s' if tls_cert else ''}://{place}:{port}"
        output.note(f"listening at {url}")
        if token:
            output.note(f"nobody is a user yet; to sign in once: {url}/ui/link/{token}")
            output.note("then: catchment user add NAME --role viewer")
        os.environ[LOG_LEVEL] = logging.getLevelName(logging.root.level)
        with _counted_together(workers):
            _run(listener, options)


@contextmanager
def _counted_together(workers: int) -> Iterator[None]:
    """Where several processes serve, a folder in which each counts what it answers, for all."""
    from catchment.core.scratch import scratch_folder

    if workers == 1 or METRICS in os.environ:
        yield
        return
    with scratch_folder() as folder:
        os.environ[METRICS] = str(folder)
        try:
            yield
        finally:
            del os.environ[METRICS]


def _first_link(workspace: Workspace) -> str:
    """While there is no user, a link for whoever can read this terminal; good for an hour, once."""
    from catchment.core.ledger.people import People

    people = People(workspace.ledger)
    if people.listed() or workspace.settings.oidc.issuer:
        return ""
    return people.link()


def _run(listener: socket.socket, options: dict[str, Any]) -> None:
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess

        from catchment.web.app import FACTORY
    except ImportError as error:
        raise Invalid(
            f"serving needs {error.name}, which is not installed",
            kind="missing-extra",
            hint="pip install 'catchment[web]'",
        ) from None
    config = uvicorn.Config(
        FACTORY,
        factory=True,
        log_config=None,  # through our own handler
        access_log=False,  # the application logs paths without what was asked
        server_header=False,
        timeout_graceful_shutdown=30,
        timeout_worker_healthcheck=HEALTH,
        timeout_keep_alive=75,  # longer than clients wait between two questions
        ws="none",
        **options,
    )
    # The server raises once more what ended it, which would end the process as it is.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            if config.workers > 1:
                Multiprocess(config, sockets=[listener]).run()
            else:
                uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise Unavailable(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            kind="cannot-listen",
            hint="choose another --port, or end the program that has it",
        ) from None
    with listener:
        listener.set_inheritable(True)
        yield listener


def _check_tls(host: str, cert: Path | None, key: Path | None, proxy: str | None) -> None:
    """Secrets of sites do not cross a network in the clear."""
    if (cert is None) != (key is None):
        raise Invalid(
            "expected --tls-cert and --tls-key together",
            kind="bad-tls",
            hint="catchment serve --tls-cert FILE --tls-key FILE",
        )
    for path in (cert, key):
        if path is not None and not path.is_file():
            raise Invalid(f"there is no file {path}", kind="bad-tls", hint="check the path")
    if cert is None and proxy is None and not _is_loopback(host):
        raise Invalid(
            f"{host} is reached from other machines, so TLS is needed: "
            "expected --tls-cert and --tls-key, or --proxy",
            kind="tls-needed",
            hint="catchment serve --tls-cert FILE --tls-key FILE, or put a proxy before it",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

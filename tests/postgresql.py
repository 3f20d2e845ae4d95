"""A PostgreSQL server for tests, in a temporary folder, that only this machine can reach."""

import contextlib
import importlib.util
import itertools
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any


def missing() -> str | None:
    """Return what must be installed first, if anything."""
    if _folder() is None:
        return "the server of PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'psycopg[binary]')"
    return None


def _folder() -> pathlib.Path | None:
    """Return the folder of the server's programs; Debian has one for each version."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return pathlib.Path(on_path).resolve().parent
    found = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(
        (path.parent for path in found), key=lambda path: float(path.parts[-2]), default=None
    )


class Server:
    """A running server.

    Args:
        folder: its data and its socket.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def new_database(self) -> str:
        """Create a database, and return its URL."""
        name = f"test_{next(self._numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://helios@/{name}?host={self._folder}"

    def statistics(self, url: str) -> tuple[int, ...]:
        """Return what a database counts once all have left it: transactions, and rows written."""
        name = url.partition("@/")[2].partition("?")[0]
        with self.connect("postgres") as connection:

            def query(text: str) -> Any:
                return connection.execute(text, [name]).fetchone()

            while query("SELECT count(*) FROM pg_stat_activity WHERE datname = %s") != (0,):
                pass
            found: tuple[int, ...] = query(
                "SELECT xact_commit + xact_rollback, tup_inserted, tup_updated"
                " FROM pg_stat_database WHERE datname = %s"
            )
            return found

    def connect(self, database: str) -> Any:
        """Connect to a database by name."""
        import psycopg

        return psycopg.connect(
            host=str(self._folder), user="helios", dbname=database, autocommit=True
        )


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Run a server. It refuses to run as root, so then another user does."""
    programs = _folder()
    assert programs is not None
    user: dict[str, Any] = {}
    # Not below the folder of pytest: the path of a socket is short.
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if os.getuid() == 0:
            account = _account()
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        data = folder / "data"

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "--pgdata", str(data), *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **user)

        run(
            "initdb",
            "--username=helios",
            "--auth=trust",
            "--no-sync",
            "--locale=C",
            "--encoding=UTF8",
        )
        settings = ["listen_addresses=", f"unix_socket_directories={folder}"]
        settings += ["fsync=off", "autovacuum=off"]
        options = " ".join(f"-c {setting}" for setting in settings)
        run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}", f"--options={options}")
        try:
            yield Server(folder)
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")


def _account() -> pwd.struct_passwd:
    """Return an account that has no rights."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")

"""Runs Python programs in fresh processes that need not import PyTorch again: it forks them.

The server has imported PyTorch and nothing else has happened in it. A client stands in for the
interpreter: it hands over its arguments, environment, folder and files, passes signals on, and ends
as the program does. So a test starts a program as ever, with :func:`python` for ``sys.executable``:

    subprocess.run([*python, "-c", "import torch"], cwd=..., env=..., stdout=...)

Not for tests of what an interpreter does before and while it imports PyTorch.
"""

import array
import contextlib
import fcntl
import gc
import io
import json
import os
import select
import signal
import socket
import sys

CLIENT = ("-I", "-S", __file__)
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


# The test's side.


@contextlib.contextmanager
def server(address, modules):
    """Run a server at the path of a socket, which imports modules first; yield the interpreter.

    The interpreter is a list: a program and its first arguments. Any other Python can be the
    program: what runs then sees the packages of its virtual environment.
    """
    import subprocess

    command = [sys.executable, __file__, "serve", str(address), *modules]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environ) as process:
        yield [sys.executable, *CLIENT, str(address)]
        process.stdin.close()  # ends it


# The client, in a small and fast interpreter.


def ask(address, *arguments):
    """Have a program run by the server, and end as it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        while True:
            try:
                connection.connect(address)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                select.select([], [], [], 0.02)  # it is still importing
        for number in FORWARDED:
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        request = {
            "python": sys.executable,
            "arguments": arguments,
            "environ": dict(os.environ),
            "folder": os.getcwd(),
        }
        files = array.array("i", [0, 1, 2, *inherited_files()])
        request["files"] = list(files)
        data = json.dumps(request).encode()
        header = len(data).to_bytes(4, "big")
        connection.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        connection.sendall(data)
        answer = connection.recv(8)
    status = int(answer)
    if status < 0:
        if -status in FORWARDED:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def inherited_files():
    """Return the files that a parent has passed on, as multiprocessing does; pipes, for example."""
    if not os.environ.get("HELIOS_TEST_PASSES_FILES"):
        return []
    found = [int(name) for name in os.listdir("/proc/self/fd")]
    return [file for file in found if file > 2 and is_inheritable(file)]


def is_inheritable(file):
    try:
        return os.get_inheritable(file)
    except OSError:  # that of the folder, which is closed by now
        return False


# The server.


def serve(address, *modules):
    """Fork for each request until standard input ends; return in the process of a program."""
    for module in modules:
        __import__(module)
    gc.freeze()  # so that no program looks through all of PyTorch for garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        supervisors = 0
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if listener not in ready:
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return supervise(connection)
            connection.close()
            supervisors += 1
            while supervisors and os.waitpid(-1, os.WNOHANG)[0]:
                supervisors -= 1


def supervise(connection):
    """Fork a program, pass signals on to it, and report how it ends; return in its process."""
    header, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(4 * 64))
    size = int.from_bytes(header, "big")
    with connection.makefile("rb") as stream:
        request = json.loads(stream.read(size))
    files = array.array("i", ancillary[0][2])
    child = os.fork()
    if child == 0:
        connection.close()
        return request, files
    for file in (*files, 0, 1, 2):
        os.close(file)
    import threading

    threading.Thread(target=pass_on, args=(connection, child), daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the client was killed
        connection.sendall(str(status).encode())
    os._exit(0)


def pass_on(connection, child):
    """Send the signals of the client to the program; the program does not outlive the client."""
    while number := connection.recv(1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


# The program.


def run(request, files):
    """Become the interpreter that the client stands in for, and run its program."""
    import importlib
    import random
    import runpy
    import types

    place_files(files, request["files"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # ruff: noqa: SIM115 - they stay open until the program ends
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
    binary = open(2, "wb", buffering=0, closefd=False)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        binary, encoding="utf-8", errors="backslashreplace", write_through=True
    )
    os.chdir(request["folder"])
    inherited = search_path(os.environ)
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:] = [path for path in sys.path[1:] if path not in inherited]
    if request["python"] != sys.executable:
        enter(request["python"])
    sys.path[:0] = search_path(os.environ)
    importlib.invalidate_caches()
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()

    arguments = request["arguments"]
    while arguments[0] not in ("-c", "-m") and arguments[0].startswith("-"):
        arguments = arguments[1:]  # an option of the interpreter, from multiprocessing
    first, *rest = arguments
    if first == "-c":
        code, *rest = rest
        sys.argv, sys.path[:0] = ["-c", *rest], [""]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif first == "-m":
        module, *rest = rest
        sys.argv, sys.path[:0] = [module, *rest], [os.getcwd()]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = [first, *rest], [os.path.dirname(os.path.abspath(first))]
        runpy.run_path(first, run_name="__main__")


def place_files(files, numbers):
    """Give files the numbers that they had in the client."""
    highest = max([*numbers, *files]) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, highest) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def end(program):
    """Run a program and end the process, all but taking apart PyTorch, which takes a second."""
    import atexit
    import threading

    status = 0
    try:
        program()
    except SystemExit as error:
        status = error.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
        if isinstance(error, KeyboardInterrupt):
            status = -signal.SIGINT
    threading._shutdown()  # as an interpreter does
    atexit._run_exitfuncs()
    if not sys.stdout.closed:  # multiprocessing's tracker of resources has closed it
        sys.stdout.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((status or 0) & 0xFF)


def search_path(environ):
    """Return the folders of ``PYTHONPATH``."""
    folders = environ.get("PYTHONPATH", "").split(os.pathsep)
    return [os.path.abspath(folder) for folder in folders if folder]


def enter(python):
    """See the packages of another virtual environment instead of those of the server's."""
    import site
    import sysconfig

    folder = os.path.dirname(os.path.dirname(python))
    base = {"base": folder, "platbase": folder}
    sys.executable, sys.prefix, sys.exec_prefix = python, folder, folder
    sys.path[:] = [p for p in sys.path if not p.endswith(("site-packages", "dist-packages"))]
    site.addsitedir(sysconfig.get_path("purelib", "venv", base))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        request = serve(*sys.argv[2:])
        end(lambda: run(*request))
    else:
        ask(*sys.argv[1:])

"""Start the local stack under supervisord, and stop exactly what was started.

supervisord runs in a session of its own and restarts what dies, so the stack outlives the command that started it, also when that is killed.
Every descendant carries the address of its supervisord in its environment; that is how `stop` finds all of them, wherever they were put.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]  # ships no types

from evershelf import storage
from evershelf.errors import CommandFailed
from evershelf.progress import Say
from evershelf.settings import CONFIG_VARIABLE, Settings, config_file
from evershelf.stack.airflow import airflow_environment, prepare_airflow
from evershelf.stack.hdfs import prepare_hdfs
from evershelf.stack.ports import is_free
from evershelf.stack.redis import write_redis_config
from evershelf.stack.services import CHECKOUT, DEPLOY, Service, find_program, program_path, services

RECORD = "stack.json"
_MARK = "SUPERVISOR_SERVER_URL"  # supervisord sets it for all its children


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What `<home>/stack.json` says of a stack: its supervisord, where to look, and the settings that reach it from elsewhere."""

    pid: int
    socket: str
    urls: dict[str, str]
    ports: dict[str, tuple[int, ...]]
    env: dict[str, str]


def running(home: Path) -> Running | None:
    """Return the stack of a home, or None when none is up."""
    record = read_record(home)
    return record if record and _supervisor(record) else None


def read_record(home: Path) -> Running | None:
    """Return what a stack wrote down at its start, None when there is no record.

    Raises:
        CommandFailed: the record is another version's, or damaged.
    """
    try:
        return msgspec.json.decode((home / RECORD).read_bytes(), type=Running)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise CommandFailed(
            f"{home / RECORD} says what runs there, but cannot be understood ({error}): another version wrote it. Nothing was started or stopped, and what "
            "serves goes on. Stop it with that version, or end the supervisord whose pid the file names, then remove the file."
        ) from None


def start(settings: Settings, names: Iterable[str], overrides: Mapping[str, str], say: Say) -> Running:
    """Start services and wait until each is ready; those that run already stay as they are.

    Args:
        names: services to start.
        overrides: environment variables that set what differs from the defaults, such as chosen ports.
        say: takes one line of progress.

    Raises:
        CommandFailed: a program is missing, a port is taken, or a service did not become ready; names its log.
    """
    every, logs = services(settings), settings.home / "logs"
    wanted = [service for name, service in every.items() if name in set(names)]
    for service in wanted:
        for command in service.programs.values():
            find_program(command[0])
    record = running(settings.home)
    if not record:
        stop(settings.home)  # what an earlier supervisord left behind when it was killed
        record = _start_supervisor(settings, every, overrides)
    supervisor = _connect(record)
    states = {program["name"]: program["statename"] for program in supervisor.getAllProcessInfo()}
    idle = [service for service in wanted if any(states[program] not in ("RUNNING", "STARTING", "BACKOFF") for program in service.programs)]
    for service in idle:
        for port in service.ports:
            if not is_free(port):
                raise CommandFailed(
                    f"Port {port} of 127.0.0.1, which {service.name} wants, is taken by another program. {service.name} was not started; stop that program, "
                    "set another port, or let `evershelf up --free-ports` choose."
                )
    for service in idle:
        if service.name == "airflow":
            started = time.monotonic()
            prepare_airflow(_environment(settings, overrides), logs / "airflow-prepare.log")
            say(f"airflow        database ready in {time.monotonic() - started:.1f} s")
        elif service.name == "hdfs":
            prepare_hdfs(settings, logs / "hdfs-prepare.log")
        for program in service.programs:
            supervisor.startProcess(program, False)
    started = time.monotonic()
    waiting = list(wanted)
    while waiting:
        for service in list(waiting):
            if service.ready():
                say(f"{service.name:<14} ready in {time.monotonic() - started:.1f} s  {service.url}".rstrip())
                waiting.remove(service)
            elif time.monotonic() - started > service.patience or _gave_up(supervisor, service):
                logged = ", ".join(str(logs / f"{program}.log") for program in service.programs)
                raise CommandFailed(f"{service.name} did not become ready. The other services run on; see {logged}, and stop all with `evershelf down`.")
        time.sleep(0.2)
    return record


def ignore_signals() -> None:
    """From here on nobody interrupts: what ends everything must itself reach its end."""
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)


def stop(home: Path) -> list[str]:
    """Stop everything that the stack of a home started, in reverse order, whoever is still alive of it.

    Returns:
        The names of the processes that had to be stopped one by one because their supervisord was gone or did not reach them.
    """
    record = read_record(home)
    if not record:
        return []
    if supervisor := _supervisor(record):
        with suppress(OSError, xmlrpc.client.Error):
            connected = _connect(record)
            for program in connected.getAllProcessInfo():
                with suppress(xmlrpc.client.Fault):  # it runs
                    connected.removeProcessGroup(program["name"])  # supervisord takes a second for each that it shuts down, also for one that never ran
            connected.shutdown()
        with suppress(psutil.TimeoutExpired):
            supervisor.wait(60)
        with suppress(psutil.NoSuchProcess):
            supervisor.kill()
            supervisor.wait(5)
    strays = _marked(record)
    names = [process.name() for process in strays]
    for process in strays:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(strays, timeout=10)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    shutil.rmtree(Path(record.socket).parent, ignore_errors=True)
    (home / RECORD).unlink(missing_ok=True)
    return names


def program_pid(record: Running, program: str) -> int:
    """Return the process id of a supervised program, 0 when it does not run (yet)."""
    with suppress(OSError, xmlrpc.client.Error):
        return int(_connect(record).getProcessInfo(program)["pid"])
    return 0


def stop_program(record: Running, program: str) -> None:
    """Stop one program, which stays down, as on a host that is lost."""
    _connect(record).stopProcess(program)


def start_program(record: Running, program: str) -> None:
    """Start one program that was stopped."""
    _connect(record).startProcess(program, False)


def _start_supervisor(settings: Settings, every: Mapping[str, Service], overrides: Mapping[str, str]) -> Running:
    logs = settings.home / "logs"
    for folder in (logs, settings.home / "prometheus"):
        folder.mkdir(parents=True, exist_ok=True)
    _write_prometheus_config(settings)
    write_redis_config(settings)
    # A socket's address has at most 108 bytes, so it cannot stand in a home that may lie deep.
    socket = Path(tempfile.mkdtemp(prefix="evershelf-")) / "supervisor.sock"
    configuration = settings.home / "supervisord.conf"
    configuration.write_text(_configuration(every, socket, logs))
    with (logs / "supervisord.out").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(configuration)],
            env=_environment(settings, overrides),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal must not reach it: `stop` ends it in order
        )
    record = Running(
        pid=process.pid,
        socket=str(socket),
        urls={service.name: service.url for service in every.values() if service.url},
        ports={service.name: service.ports for service in every.values()},
        env={"EVERSHELF_HOME": str(settings.home), **overrides},
    )
    storage.replace(settings.home / RECORD, msgspec.json.format(msgspec.json.encode(record)))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, xmlrpc.client.Error):
            _connect(record).getState()
            return record
        time.sleep(0.05)
    stop(settings.home)
    raise CommandFailed(f"supervisord did not start. No service was started; see {logs / 'supervisord.out'}.")


def _configuration(every: Mapping[str, Service], socket: Path, logs: Path) -> str:
    def value(text: object) -> str:
        return str(text).replace("%", "%%")

    lines = [
        "[supervisord]",
        f"logfile={value(logs / 'supervisord.log')}",
        f"pidfile={value(logs / 'supervisord.pid')}",
        f"childlogdir={value(logs)}",
        "minfds=1024",
        "[unix_http_server]",
        f"file={value(socket)}",
        "chmod=0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for priority, service in enumerate(every.values()):
        for program, (executable, *arguments) in service.programs.items():
            # A program that is missing matters only when its service is wanted, and `start` says so then.
            path = program_path(executable) or executable
            command = " ".join(f'"{argument}"' if argument == "" or " " in argument else argument for argument in (path, *arguments))
            lines += [
                f"[program:{program}]",
                f"command={value(command)}",
                "autostart=false",
                "autorestart=true",
                "startsecs=1",
                "startretries=20",
                "stopasgroup=true",
                "killasgroup=true",
                "stopwaitsecs=10",
                f"priority={priority}",
                "redirect_stderr=true",
                f"stdout_logfile={value(logs / program)}.log",
                "stdout_logfile_maxbytes=20MB",
                "stdout_logfile_backups=2",
            ]
    return "\n".join(lines) + "\n"


def _write_prometheus_config(settings: Settings) -> None:
    telemetry = settings.telemetry
    (settings.home / "prometheus" / "prometheus.yml").write_text(
        f"""global: {{scrape_interval: 5s, evaluation_interval: 15s}}
rule_files: ["{DEPLOY / "prometheus" / "rules.yml"}"]
scrape_configs:
  - job_name: statsd
    static_configs: [{{targets: ["127.0.0.1:{telemetry.exporter_port}"]}}]
  - job_name: prometheus
    static_configs: [{{targets: ["127.0.0.1:{telemetry.prometheus_port}"]}}]
"""
    )


def _environment(settings: Settings, overrides: Mapping[str, str]) -> dict[str, str]:
    environment = {**os.environ, **overrides, **airflow_environment(settings)}
    environment["EVERSHELF_HOME"] = str(settings.home)
    if config_file().is_file():
        environment[CONFIG_VARIABLE] = str(config_file().absolute())  # Airflow's tasks start in other folders
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))  # dags import `plugins.steps`
    environment["SPT_NOENV"] = "1"  # Airflow's new process titles must not overwrite the environment in which `stop` looks for the mark
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _connect(record: Running) -> Any:
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, serverurl=f"unix://{record.socket}")).supervisor


def _supervisor(record: Running) -> psutil.Process | None:
    """Return the process of a supervisord, unless it is gone and its number belongs to another process by now."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(record.pid)
        if "supervisor.supervisord" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _marked(record: Running) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(_MARK) == f"unix://{record.socket}":
                found.append(process)
    return found


def _gave_up(supervisor: Any, service: Service) -> bool:
    return any(supervisor.getProcessInfo(program)["statename"] == "FATAL" for program in service.programs)

"""What runs in the local stack: each service's command, how to see that it works, and where a person looks at it."""

import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from evershelf.errors import CommandFailed
from evershelf.settings import RedisSettings, Settings
from evershelf.stack.hdfs import hdfs_programs, hdfs_works
from evershelf.stack.redis import redis_ports, redis_programs

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
_WITH_SETUP = CHECKOUT / ".setup" / "bin"  # `make setup` puts there what the system has no package for

EVERSHELF = (sys.executable, "-m", "evershelf.cli")
AIRFLOW = (sys.executable, "-m", "airflow")
POLITELY = ("nice", "-n", "5")  # what may wait leaves the cores to what answers shoppers, when both share a machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of the stack.

    Attributes:
        programs: supervised program -> its command; a program's name starts with the service's.
        ready: whether it works now; False while it starts.
        ports: what it listens on, by setting.
        patience: seconds within which it must be ready.
        url: where a person looks at it; '' when there is nothing to see.
    """

    name: str
    programs: Mapping[str, tuple[str, ...]]
    ready: Callable[[], bool]
    ports: tuple[int, ...]
    patience: float = 60.0
    url: str = ""


def services(settings: Settings) -> dict[str, Service]:
    """Return every service, in the order in which they start."""
    redis, telemetry, gateway = settings.redis, settings.telemetry, settings.gateway
    prometheus = f"http://127.0.0.1:{telemetry.prometheus_port}"
    airflow = f"http://127.0.0.1:{settings.airflow.port}"
    every = (
        Service(
            name="hdfs",
            programs=hdfs_programs(settings),
            ready=lambda: hdfs_works(settings.hdfs),
            ports=(settings.hdfs.port, settings.hdfs.web_port),
        ),
        Service(
            name="redis",
            programs=redis_programs(settings),
            ready=lambda: all(map(_answers_ping, redis_ports(redis))) and _replicated(redis),
            ports=redis_ports(redis),
        ),
        Service(
            name="statsd",
            programs={
                "statsd": (
                    "statsd_exporter",
                    f"--statsd.listen-udp=127.0.0.1:{telemetry.statsd_port}",
                    "--statsd.listen-tcp=",
                    f"--web.listen-address=127.0.0.1:{telemetry.exporter_port}",
                    f"--statsd.mapping-config={DEPLOY / 'prometheus' / 'statsd_mapping.yml'}",
                )
            },
            ready=lambda: _answers_http(f"http://127.0.0.1:{telemetry.exporter_port}/-/ready"),
            ports=(telemetry.statsd_port, telemetry.exporter_port),
        ),
        Service(
            name="prometheus",
            programs={
                "prometheus": (
                    "prometheus",
                    f"--config.file={settings.home / 'prometheus' / 'prometheus.yml'}",
                    f"--storage.tsdb.path={settings.home / 'prometheus' / 'data'}",
                    f"--web.listen-address=127.0.0.1:{telemetry.prometheus_port}",
                    "--storage.tsdb.retention.time=15d",
                )
            },
            ready=lambda: _answers_http(f"{prometheus}/-/ready"),
            ports=(telemetry.prometheus_port,),
            url=prometheus,
        ),
        Service(
            name="model-server",
            programs={"model-server": (*EVERSHELF, "model-server")},
            ready=lambda: _accepts(settings.model_server.port),
            ports=(settings.model_server.port,),
            patience=120.0,  # TensorFlow alone takes seconds to import
        ),
        Service(
            name="gateway",
            programs={"gateway": (*EVERSHELF, "serve")},
            ready=lambda: _answers_http(f"http://127.0.0.1:{gateway.port}/healthz"),
            ports=(gateway.port,),
            url=f"http://127.0.0.1:{gateway.port}/openapi.json",
        ),
        Service(
            name="airflow",
            programs={
                "airflow-api": (*AIRFLOW, "api-server"),
                "airflow-scheduler": (*POLITELY, *AIRFLOW, "scheduler", "--skip-serve-logs"),  # the API server reads task logs from the same disk
                "airflow-dags": (*POLITELY, *AIRFLOW, "dag-processor"),
            },
            ready=lambda: _airflow_works(airflow),
            ports=(settings.airflow.port,),
            patience=240.0,
            url=airflow,
        ),
    )
    return {service.name: service for service in every}


def program_path(name: str) -> str | None:
    """Return where a program is installed, by the system or by `make setup`; None when it is not."""
    return shutil.which(name) or shutil.which(name, path=str(_WITH_SETUP))


def find_program(name: str) -> str:
    """Return the path of a program that a service needs.

    Raises:
        CommandFailed: it is not installed.
    """
    found = program_path(name)
    if not found:
        raise CommandFailed(f"{name} is neither on the PATH nor in {_WITH_SETUP}. Nothing was started; run `make setup`, or look at `evershelf doctor`.")
    return found


def _replicated(settings: RedisSettings) -> bool:
    """Return whether every sentinel knows a primary with all its replicas in step."""
    if not settings.sentinels:
        return True
    import redis  # slow

    try:
        for host, port in settings.sentinel_addresses:
            with redis.Redis(host=host, port=port, socket_timeout=1.0) as sentinel:
                state = sentinel.sentinel_master(settings.primary)
                replicas = sentinel.sentinel_slaves(settings.primary)
            in_step = [one for one in replicas if not one["is_sdown"] and one["master-link-status"] == "ok"]
            if not state["is_master"] or state["num-other-sentinels"] < len(settings.sentinels) - 1 or len(in_step) < len(settings.replica_ports):
                return False
    except (redis.RedisError, OSError):
        return False
    return True


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _answers_http(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _airflow_works(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/api/v2/monitor/health", timeout=5.0, trust_env=False)
        return answer.is_success and all(answer.json()[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))
    except (httpx.HTTPError, KeyError, ValueError):
        return False

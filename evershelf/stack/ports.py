"""Free ports, so that two installations, or two tests, never meet."""

import random
import re
import socket

# Below the range from which the kernel gives outgoing connections theirs: a service that is restarted finds its port free again.
_FIRST, _LAST = 20_000, 32_000

# setting -> what listens there
PORT_VARIABLES = {
    "EVERSHELF_GATEWAY__PORT": "gateway",
    "EVERSHELF_MODEL_SERVER__PORT": "model-server",
    "EVERSHELF_HDFS__PORT": "hdfs namenode",
    "EVERSHELF_HDFS__WEB_PORT": "hdfs namenode, WebHDFS",
    "EVERSHELF_REDIS__PORT": "redis",
    "EVERSHELF_REDIS__REPLICA_PORTS": "redis replicas",
    "EVERSHELF_REDIS__SENTINELS": "redis sentinels",
    "EVERSHELF_AIRFLOW__PORT": "airflow",
    "EVERSHELF_TELEMETRY__STATSD_PORT": "statsd",
    "EVERSHELF_TELEMETRY__EXPORTER_PORT": "statsd-exporter",
    "EVERSHELF_TELEMETRY__PROMETHEUS_PORT": "prometheus",
}


def free_ports() -> dict[str, str]:
    """Return free loopback ports for every service, as environment variables that set them."""
    tried = random.SystemRandom().sample(range(_FIRST, _LAST), 1000)  # two that start at the same moment must not try the same ones
    free = (port for port in tried if is_free(port))
    several = {"EVERSHELF_REDIS__REPLICA_PORTS": "[{}, {}]", "EVERSHELF_REDIS__SENTINELS": '["127.0.0.1:{}", "127.0.0.1:{}", "127.0.0.1:{}"]'}
    return {variable: re.sub("{}", lambda _: str(next(free)), several.get(variable, "{}")) for variable in PORT_VARIABLES}


def is_free(port: int) -> bool:
    """Return whether nothing listens on a loopback port, neither TCP nor UDP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that just ended does not hold it
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True

"""Whether MLflow's server takes requests from this machine, asked before anything is started.

With a request as MLflow's client sends it, because an open port says little: what stands behind it
may refuse the password, or the name that it is asked by.
"""

import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from study.failures import in_one_line

if TYPE_CHECKING:
    import requests

# For a connection, and for an answer that a busy server sends late.
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 20.0
# Of a URI that names none.
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What the drivers of databases call the time that a connection may take.
TIMEOUTS = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
# What every server of MLflow has, and what asks for user and password; one entry at most.
PATH = "/api/2.0/mlflow/experiments/search?max_results=1"
# In what MLflow says to a Host header that is not on its list.
FOREIGN_HOST = "Invalid Host header"

# Of MLflow's client in every process of a study or of the registry; what the user has set stays.
CLIENT = {
    # A server that is down is asked again at the next round, not in the middle of this one; and a
    # request to create something, sent again because its answer was lost, would create two.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # Else a run's address is printed whenever one ends, and a bar for each file.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def set_up_client() -> None:
    """Has MLflow's client ask once, and print nothing."""
    for variable, value in CLIENT.items():
        os.environ.setdefault(variable, value)


def mlflow_fault(uri: str) -> str | None:
    """Why MLflow cannot be used from here: in one line, without the password.

    Args:
        uri: the study's. A server is asked something, a database is logged in to; a file needs no
            asking.

    Returns:
        None if it can be used.
    """
    try:
        parts = urlsplit(uri)
        scheme = parts.scheme.partition("+")[0]
        if parts.hostname is None or scheme not in PORTS:
            return None
        port = parts.port or PORTS[scheme]
    except ValueError:  # It says what it could not read, which may be of the password.
        return (
            "MLflow's address cannot be read; signs of a password that mean something in an "
            "address, as / # and @, are written %2F %23 %40"
        )
    # Not parts.netloc, which may have the password.
    place = f"{parts.hostname}:{port}"
    try:
        if scheme not in ("http", "https"):
            # First, because it says in two words what a database's driver says in many.
            socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
            return _database_fault(uri, scheme, place)
        answer = _ask(uri)
    except Exception as e:  # MLflow raises its own for everything, and it names the URI.
        return f"MLflow at {place} cannot be reached: {_root(e)}"
    # As it stands in the Host header, which has no port that goes without saying.
    name = parts.netloc.rpartition("@")[2]
    return _refusal(answer, place, name)


def _database_fault(uri: str, scheme: str, place: str) -> str | None:
    """Why a database that answers does not let us in, or what is missing for it here."""
    # As late as MLflow, which brings it.
    import sqlalchemy

    limit = {TIMEOUTS[scheme]: int(CONNECT_SECONDS)}
    try:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=limit)
        with engine.connect():
            return None
    except Exception as e:  # Each driver has its own.
        return f"MLflow's database at {place} cannot be used: {_root(e)}"


def _ask(uri: str) -> "requests.Response":
    """The server's answer to a request with the user, password or token that MLflow would send."""
    # It takes seconds, and a worker needs none of it.
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(
        get_default_host_creds(uri),
        PATH,
        "GET",
        max_retries=0,
        raise_on_status=False,
        timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
    )


def _refusal(answer: "requests.Response", place: str, name: str) -> str | None:
    """What an answer other than the wanted one says; None of that one."""
    status = f"{answer.status_code} {answer.reason}".strip()
    if answer.status_code == 401:
        sent = "Authorization" in answer.request.headers
        what = "refuses user or password" if sent else "asks for user and password"
        return (
            f"MLflow at {place} {what} ({status}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD there"
        )
    if answer.status_code == 403 and FOREIGN_HOST in answer.text:
        return (
            f"MLflow at {place} refuses to be asked by this name ({status}); add {name} to the "
            "server's MLFLOW_SERVER_ALLOWED_HOSTS, or take a name that is there"
        )
    if not answer.ok:
        return f"MLflow at {place} answers {status}: {_start_of(answer)}"
    if "json" not in answer.headers.get("Content-Type", ""):
        return f"what answers at {place} is not MLflow: {_start_of(answer)}"
    return None


def _start_of(answer: "requests.Response") -> str:
    return " ".join(answer.text.split())[:200] or "nothing else"


def _root(error: BaseException) -> str:
    """What the innermost cause says; those around it name the URI."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or in_one_line(error)

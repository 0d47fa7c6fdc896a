#!/usr/bin/env -S python3 -W ignore
"""Makes a user of MLflow's server, for studies: they need none of what its admin may do.

    set -a; . cluster/services/.env; set +a
    umask 077; cluster/services/add_user.py study >> ~/.ffcad/environment

With compose: `docker compose exec -T mlflow /add_user.py study`. Prints the two lines that the
machines of studies need; the password is made here and kept nowhere else. A user reads everything
and changes what it has made itself; the admin changes everything.
"""

import argparse
import os
import secrets
import sys

from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient


def main() -> int:
    """The command line; 2 where the server says no."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the user's")
    parser.add_argument(
        "--anew", action="store_true", help="another password for a user that is there"
    )
    port = os.environ.get("MLFLOW_LISTEN_PORT", "5000")
    parser.add_argument(
        "--server",
        default=f"http://127.0.0.1:{port}",
        help="its address, one of its allowed hosts (default: %(default)s)",
    )
    given = parser.parse_args()
    if "MLFLOW_AUTH_ADMIN_PASSWORD" not in os.environ:
        parser.error("MLFLOW_AUTH_ADMIN_PASSWORD is not set; take the server's environment")
    os.environ["MLFLOW_TRACKING_USERNAME"] = os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]
    client = AuthServiceClient(given.server)
    password = secrets.token_hex(24)
    try:
        if given.anew:
            client.update_user_password(given.name, password)
        else:
            client.create_user(given.name, password)
    except MlflowException as e:
        print(f"error: {given.server}: {str(e).splitlines()[0]}", file=sys.stderr)
        return 2
    print(f"export MLFLOW_TRACKING_USERNAME={given.name}")
    print(f"export MLFLOW_TRACKING_PASSWORD={password}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

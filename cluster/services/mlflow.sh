#!/bin/bash
# MLflow's server with a password and a list of host names, for studies on many machines. What it
# needs is in the environment: cluster/services/environment.example has it all.
#
#   pip install -c constraints.txt -e '.[server]'
#   set -a; . cluster/services/environment; set +a; cluster/services/mlflow.sh
set -euo pipefail
umask 077
: "${MLFLOW_BACKEND_STORE_URI:?is postgresql+psycopg2://USER:PASSWORD@HOST/mlflow}"
: "${MLFLOW_AUTH_DATABASE_URI:?is postgresql+psycopg2://USER:PASSWORD@HOST/mlflow_auth}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?is s3://BUCKET/mlflow, or a folder, of NFS perhaps}"
: "${MLFLOW_SERVER_ALLOWED_HOSTS:?is the name that browsers and studies know it by, with its port}"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?is a password of 12 characters or more}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?is a long random text, always the same}"
# In a file of its own, because MLflow takes the address of its users' database from nowhere else;
# doubled, because % means something there.
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<C
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = ${MLFLOW_AUTH_DATABASE_URI//%/%%}
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
C
# The other addresses and passwords are taken from the environment, where no list of processes shows
# them.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
exec mlflow server --app-name basic-auth --host "${MLFLOW_LISTEN:-127.0.0.1}" \
    --port "${MLFLOW_LISTEN_PORT:-5000}" --workers "${MLFLOW_WORKERS:-2}"

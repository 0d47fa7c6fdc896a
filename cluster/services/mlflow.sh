#!/bin/bash
# MLflow's server with passwords and a list of host names, for studies on many machines. What it
# needs is in the environment: cluster/services/env.example has it all.
#
#   pip install -c constraints.txt -e '.[server]'
#   set -a; . cluster/services/.env; set +a; cluster/services/mlflow.sh
#
# The admin's password is used by the first start only, which makes that user, and by add_user.py,
# which makes those that studies are.
set -euo pipefail
umask 077
: "${MLFLOW_BACKEND_STORE_URI:?is postgresql+psycopg2://USER@HOST/mlflow, with the password in PGPASSWORD}"
: "${MLFLOW_AUTH_DATABASE_URI:?is postgresql+psycopg2://USER@HOST/mlflow_auth}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?is s3://BUCKET/mlflow, or a folder, of NFS perhaps}"
: "${MLFLOW_SERVER_ALLOWED_HOSTS:?is the name that browsers and studies know it by, with its port}"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?is a password of 12 characters or more}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?is a long random text, always the same}"
# In a file of its own, because MLflow takes the address of its users' database from nowhere else;
# doubled, because % means something there. Gone with the server, which reads it again and again.
# Users may read all that there is: to one who may not, what is missing reads like what is forbidden,
# and neither a promotion nor a study of a name that somebody else has would know what to do. Each
# check of a password costs a tenth of a second of a core, and a fit's runs are some thirty requests: one that
# was right is remembered for a minute.
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_CONFIG_PATH
trap 'rm -f "$MLFLOW_AUTH_CONFIG_PATH"' EXIT
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<C
[mlflow]
default_permission = READ
database_uri = ${MLFLOW_AUTH_DATABASE_URI//%/%%}
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
auth_cache_ttl_seconds = 60
C
# The other addresses and passwords are taken from the environment, where no list of processes shows
# them.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
mlflow server --app-name basic-auth --host "${MLFLOW_LISTEN:-127.0.0.1}" \
    --port "${MLFLOW_LISTEN_PORT:-5000}" --workers "${MLFLOW_WORKERS:-2}" &
server=$!
trap 'kill -TERM $server 2> /dev/null || true' TERM INT HUP
code=0
wait $server || code=$?
# A trap ends `wait` early.
while kill -0 $server 2> /dev/null; do
    code=0
    wait $server || code=$?
done
exit "$code"

#!/bin/sh
# roles.sql with the passwords of the files that Docker or Kubernetes laid into SECRETS. Their values are given to psql
# by its environment: its arguments can be read by everybody on the machine.
set -eu
SECRETS=${SECRETS:-/run/secrets}
PGPASSWORD=$(cat "$SECRETS/postgres_password")
OWNER_PASSWORD=$(cat "$SECRETS/owner_password")
APP_PASSWORD=$(cat "$SECRETS/app_password")
READ_PASSWORD=$(cat "$SECRETS/read_password")
export PGPASSWORD OWNER_PASSWORD APP_PASSWORD READ_PASSWORD
exec psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --single-transaction --file="$(dirname "$0")/roles.sql"

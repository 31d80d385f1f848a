#!/bin/sh
# Runs once, as the superuser, when the database is made: the roles of the service, and their passwords.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f /roles.sql
for role in owner app metering ops; do
  psql -v ON_ERROR_STOP=1 -v password="$MAAS_DB_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<SQL
ALTER ROLE maas_$role PASSWORD :'password';
SQL
done

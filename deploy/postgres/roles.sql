-- Three roles for one studio: who makes the tables, who works in them, who looks at them.
--
-- For psql 15 or later, in the studio's own database, as its administrator:
--
--   OWNER_PASSWORD=… APP_PASSWORD=… READ_PASSWORD=… \
--     psql --set=ON_ERROR_STOP=1 --single-transaction --file=roles.sql postgresql://postgres@host/moltpipe
--
-- It may be run again at any time: a role that is there gets the password that is given now, and no right but these.
--
--   moltpipe_owner  owns the tables; only `moltpipe migrate` uses it
--   moltpipe_app    reads and writes rows: every process of the studio
--   moltpipe_read   reads rows: metrics and dashboards
--
-- What the owner makes in an upgrade belongs to the other two at once, by the default privileges below.

\getenv owner_password OWNER_PASSWORD
\getenv app_password APP_PASSWORD
\getenv read_password READ_PASSWORD

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['moltpipe_owner', 'moltpipe_app', 'moltpipe_read']) AS name
WHERE to_regrole(name) IS NULL
\gexec

-- On a managed server nobody is a superuser, and whoever gives something to a role must belong to it.
SELECT format('GRANT moltpipe_owner TO %I', current_user)
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
\gexec

ALTER ROLE moltpipe_owner LOGIN NOCREATEROLE NOCREATEDB PASSWORD :'owner_password';
ALTER ROLE moltpipe_app LOGIN NOCREATEROLE NOCREATEDB PASSWORD :'app_password';
ALTER ROLE moltpipe_read LOGIN NOCREATEROLE NOCREATEDB PASSWORD :'read_password';
ALTER ROLE moltpipe_read SET default_transaction_read_only = on;
ALTER ROLE moltpipe_read SET statement_timeout = '30s';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE :"DBNAME" TO moltpipe_owner;
GRANT CONNECT ON DATABASE :"DBNAME" TO moltpipe_app, moltpipe_read;

-- Up to PostgreSQL 14 everybody may create tables in it.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO moltpipe_owner;
CREATE SCHEMA IF NOT EXISTS dagster AUTHORIZATION moltpipe_owner;
GRANT USAGE ON SCHEMA public, dagster TO moltpipe_app, moltpipe_read;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, dagster TO moltpipe_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public, dagster TO moltpipe_app;
-- pg_dump reads sequences as well: who only looks may take the backup.
GRANT SELECT ON ALL TABLES IN SCHEMA public, dagster TO moltpipe_read;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, dagster TO moltpipe_read;

ALTER DEFAULT PRIVILEGES FOR ROLE moltpipe_owner IN SCHEMA public, dagster
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO moltpipe_app;
ALTER DEFAULT PRIVILEGES FOR ROLE moltpipe_owner IN SCHEMA public, dagster
    GRANT USAGE ON SEQUENCES TO moltpipe_app;
ALTER DEFAULT PRIVILEGES FOR ROLE moltpipe_owner IN SCHEMA public, dagster
    GRANT SELECT ON TABLES TO moltpipe_read;
ALTER DEFAULT PRIVILEGES FOR ROLE moltpipe_owner IN SCHEMA public, dagster
    GRANT SELECT ON SEQUENCES TO moltpipe_read;

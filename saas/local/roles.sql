-- The database's roles and their default privileges. Idempotent; run by a superuser in the database that migrations will fill.
-- Passwords are set beside this file by whoever runs it (the local launcher, or the entry point in docker/).
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maas_door') THEN
    CREATE ROLE maas_door NOLOGIN NOSUPERUSER BYPASSRLS;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maas_owner') THEN
    CREATE ROLE maas_owner LOGIN NOSUPERUSER NOBYPASSRLS;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maas_app') THEN
    CREATE ROLE maas_app LOGIN NOSUPERUSER NOBYPASSRLS;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maas_metering') THEN
    CREATE ROLE maas_metering LOGIN NOSUPERUSER NOBYPASSRLS;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maas_ops') THEN
    CREATE ROLE maas_ops LOGIN NOSUPERUSER BYPASSRLS;
  END IF;
END $$;
GRANT maas_door TO maas_owner;                     -- migrations hand their doors over to it
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO maas_owner;
GRANT USAGE, CREATE ON SCHEMA public TO maas_door; -- CREATE is needed to become the owner of a function there
GRANT USAGE ON SCHEMA public TO maas_app, maas_metering, maas_ops;
ALTER DEFAULT PRIVILEGES FOR ROLE maas_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO maas_app, maas_ops;
ALTER DEFAULT PRIVILEGES FOR ROLE maas_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO maas_app, maas_ops;
ALTER DEFAULT PRIVILEGES FOR ROLE maas_owner IN SCHEMA public GRANT SELECT ON TABLES TO maas_door;

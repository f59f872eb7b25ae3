-- What Supabase brings along and a PostgreSQL of one's own lacks: the four roles of the API, and schema auth with the
-- three functions that read a token's claims. `flow db upgrade --kv` runs this where schema auth is missing, before the
-- first migration. Needs CREATEROLE; `bypassrls` for service_role needs a superuser (or, from PostgreSQL 16 on, the
-- attribute itself): without it the role is made all the same, and the owner's login does an administrator's work.

do $$
declare
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role', 'authenticator'] loop
    begin
      if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
        execute format('create role %I %s noinherit', v_role, case v_role when 'authenticator' then 'login' else 'nologin' end);
        if v_role = 'service_role' then
          execute 'alter role service_role bypassrls';
        end if;
      end if;
    exception
      -- Roles belong to the whole cluster: another database's upgrade may make them at this moment.
      when duplicate_object or unique_violation then null;
      when insufficient_privilege then
        if not exists (select from pg_catalog.pg_roles where rolname = v_role) and v_role <> 'service_role' then
          raise;
        end if;
    end;
  end loop;
  if not exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    create role service_role nologin noinherit;
  end if;
end
$$;

do $$
declare
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if not pg_catalog.pg_has_role('authenticator', v_role, 'member') then
      execute format('grant %I to authenticator', v_role);
    end if;
  end loop;
  -- So that a Flow with one DSN, the owner's, may act as its callers too.
  if not pg_catalog.pg_has_role(current_user, 'authenticated', 'member') then
    execute format('grant authenticated to %I', current_user);
  end if;
end
$$;

grant usage on schema public to anon, authenticated, service_role;

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;

-- The claims of the request's token; null without one.
create or replace function auth.jwt() returns jsonb language sql stable set search_path = '' as $$
  select nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.jsonb
$$;

-- The person, by the claim `sub`.
create or replace function auth.uid() returns uuid language sql stable set search_path = '' as $$
  select (auth.jwt() ->> 'sub')::pg_catalog.uuid
$$;

create or replace function auth.role() returns text language sql stable set search_path = '' as $$
  select auth.jwt() ->> 'role'
$$;

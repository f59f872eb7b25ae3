-- The key-value store of worklets: tables, row level security, and the kv_* functions that clients call.
--
-- Two walls stand between one worklet and another, each enough alone: every function works for the token's worklet only
-- (private.kv_enter), and policies show a token its own rows only, whichever way it comes (PostgREST's filters too).
-- What must hold however a row is written (versions, times, sizes, counters, quotas, tombstones) is kept by triggers.
--
-- One transaction changes one worklet's rows alone: whoever writes holds that worklet's row in private.kv_usage until the
-- end. So versions appear in commit order (a watcher's cursor is just a version), quotas are exact, calls of these
-- functions cannot deadlock, and worklets never wait for each other. An UPDATE or DELETE of the table itself locks its
-- first row before its worklet, so beside such calls PostgreSQL may end one of the two with 40P01: it is to be repeated.
--
-- Functions that run as the owner (definer) look for types and tables in pg_temp last, where a caller might put his own;
-- all others have an empty search_path and run as the caller.
--
-- Needs no superuser. Works where the roles anon, authenticated, service_role and authenticator are: on Supabase, and
-- after plain_postgres.sql.

do $$
begin
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception 'the key-value store needs a database in UTF8' using hint = 'create database ... encoding UTF8';
  end if;
  begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'worklet') then
      create role worklet nologin noinherit;
    end if;
  exception
    -- Another database of this cluster may be upgraded at the same moment.
    when duplicate_object or unique_violation then null;
  end;
  if not pg_catalog.pg_has_role('authenticator', 'worklet', 'member') then
    grant worklet to authenticator;
  end if;
  -- So that a Flow with one DSN, the owner's, may act as a worklet.
  if not pg_catalog.pg_has_role(current_user, 'worklet', 'member') then
    execute format('grant worklet to %I', current_user);
  end if;
end
$$;

grant usage on schema public to worklet;

-- Not exposed by PostgREST: nobody calls these functions or reads these tables by name from outside.
create schema if not exists private;
revoke all on schema private from public;
grant usage on schema private to worklet, authenticated, service_role, authenticator;


-- ------------------------------------------------------------------------------------------------------------ tables

create table public.worklets (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null,
  name text not null default '' check (octet_length(name) <= 1024),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index worklets_user_id_idx on public.worklets (user_id);
comment on table public.worklets is 'One row a worklet: whose it is, and its name.';

-- One row a worklet, made with it. Rewritten at each change of the store: room in the page keeps that cheap (HOT).
create table private.kv_usage (
  worklet_id uuid primary key references public.worklets (id) on delete cascade,
  keys bigint not null default 0,
  bytes bigint not null default 0,
  max_keys bigint not null default 1000000,
  max_bytes bigint not null default 268435456,
  -- Tokens issued before are void.
  tokens_from timestamptz,
  -- Made by Flow, who alone may delete it: made anew, it would have no quotas of its own and no revoked tokens.
  registered boolean not null default false,
  changed_at timestamptz,
  tombstones bigint not null default 0,
  -- The newest version among the tombstones that are gone: a watcher's older cursor may have missed a deletion.
  swept_version bigint not null default 0
) with (fillfactor = 40);
comment on table private.kv_usage is 'Counters, quotas and revocation of one worklet; its row is the lock of that worklet''s writers.';

create table public.worklet_kv_store (
  id uuid primary key default gen_random_uuid(),
  worklet_id uuid not null references public.worklets (id) on delete cascade,
  -- Byte order, as on the other backends; and what a range scan for a prefix needs.
  namespace text collate "C" not null default 'default',
  key text collate "C" not null,
  value jsonb not null,
  version bigint not null default 0,
  size integer not null default 0,
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint unique_worklet_namespace_key unique (worklet_id, namespace, key),
  constraint worklet_kv_store_namespace_length check (octet_length(namespace) between 1 and 256),
  constraint worklet_kv_store_key_length check (octet_length(key) between 1 and 512)
) with (fillfactor = 85);
create index worklet_kv_store_version_idx on public.worklet_kv_store (worklet_id, version);
create index worklet_kv_store_expiry_idx on public.worklet_kv_store (worklet_id, expires_at) where expires_at is not null;
comment on table public.worklet_kv_store is 'The entries. An expired one is absent for every reader and swept later.';
comment on column public.worklet_kv_store.version is 'Grows with each change within a worklet, in commit order; never used twice.';
comment on column public.worklet_kv_store.size is 'Bytes of namespace, key and the value as text: what quotas count.';

create table private.kv_tombstones (
  -- References the counters rather than the worklet: when a worklet goes, both orders of the cascade work.
  worklet_id uuid not null references private.kv_usage (worklet_id) on delete cascade,
  namespace text collate "C" not null,
  key text collate "C" not null,
  version bigint not null,
  deleted_at timestamptz not null default now(),
  primary key (worklet_id, namespace, key)
);
create index kv_tombstones_version_idx on private.kv_tombstones (worklet_id, version);
comment on table private.kv_tombstones is 'Deleted keys, for watchers; kept for 24 hours, unless they are very many.';

-- One for all worklets: taking a number costs no row of its own. Gaps are no matter.
create sequence private.kv_version;


-- ---------------------------------------------------------------------------------------- who asks: claims of the token

-- What Flow's gateway looks for at its start; each later migration of the store raises it.
create function private.kv_revision() returns integer language sql immutable set search_path = '' as $$ select 1 $$;

create function private.kv_claims() returns jsonb language plpgsql stable set search_path = '' as $$
begin
  return nullif(current_setting('request.jwt.claims', true), '')::jsonb;
end
$$;

create function private.kv_claimed_worklet() returns uuid language plpgsql stable set search_path = '' as $$
begin
  return (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'worklet_id')::uuid;
end
$$;

-- False for a person's token with a worklet's claim, which is neither. True for the owner of these tables, whom the
-- policies for `authenticated` concern too where he is a member of it, while a trigger works for a token.
create function private.kv_unmixed() returns boolean language plpgsql stable set search_path = '' as $$
begin
  return current_user <> 'authenticated' or private.kv_claimed_worklet() is null;
end
$$;

-- The person of the token; null for a worklet's token.
create function private.kv_person() returns uuid language plpgsql stable set search_path = '' as $$
begin
  return (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid;
end
$$;

-- The worklet of the token; null without one, for a revoked one, and when the worklet is gone. Definer, so that every
-- query saves a second round of policies; it tells nobody anything about a worklet but the token's own.
create function private.token_worklet() returns uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  v_tokens_from timestamptz;
  v_worklet uuid;
begin
  select u.worklet_id, u.tokens_from into v_worklet, v_tokens_from from private.kv_usage u
    where u.worklet_id = (v_claims ->> 'worklet_id')::uuid;
  if v_tokens_from is not null and to_timestamp((v_claims ->> 'iat')::float8) < v_tokens_from then
    return null;
  end if;
  return v_worklet;
end
$$;

create function private.owned_worklets() returns setof uuid language plpgsql stable rows 10 set search_path = '' as $$
begin
  return query select w.id from public.worklets w where w.user_id = (select private.kv_person());
end
$$;

-- Which worklet a call works on. Raises 42501 where the token may not.
create function private.kv_enter(p_worklet_id uuid) returns uuid language plpgsql stable set search_path = '' as $$
declare
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  v_own constant uuid := (v_claims ->> 'worklet_id')::uuid;
begin
  if v_own is null then
    if p_worklet_id is null or not exists (
      select from public.worklets w where w.id = p_worklet_id and w.user_id = (v_claims ->> 'sub')::uuid
    ) then
      raise exception 'this token may not use that worklet' using errcode = '42501', hint = 'KV_FORBIDDEN';
    end if;
    return p_worklet_id;
  end if;
  -- A person's token with a worklet's claim is neither.
  if current_user <> 'worklet' or p_worklet_id <> v_own then
    raise exception 'this token may not use that worklet' using errcode = '42501', hint = 'KV_FORBIDDEN';
  end if;
  if private.token_worklet() is null then
    if exists (select from private.kv_usage u where u.worklet_id = v_own) then
      raise exception 'this token was revoked' using errcode = '42501', hint = 'KV_REVOKED';
    end if;
    raise exception 'there is no such worklet' using errcode = '42501', hint = 'KV_FORBIDDEN';
  end if;
  return v_own;
end
$$;

-- Waits for this worklet's other writers. Definer: callers have no right to lock the row themselves.
create function private.kv_lock(p_worklet_id uuid) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from private.kv_usage u where u.worklet_id = p_worklet_id for no key update;
end
$$;

create function private.kv_enter_to_write(p_worklet_id uuid) returns uuid
language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
begin
  perform private.kv_lock(v_worklet);
  return v_worklet;
end
$$;

-- For Flow's gateway, which logs in as authenticator: who calls, until the end of the transaction (`set local`).
create function private.kv_assume(p_role text, p_claims text) returns boolean
language plpgsql volatile set search_path = '' as $$
begin
  if p_role is null or p_role not in ('worklet', 'authenticated') then
    raise exception 'a caller is a worklet or a person' using errcode = '42501', hint = 'KV_FORBIDDEN';
  end if;
  perform set_config('request.jwt.claims', p_claims, true);
  perform set_config('role', p_role, true);
  return true;
end
$$;


-- ------------------------------------------------------------------------------------------- triggers: what always holds

-- Bytes of a value as compact JSON: jsonb's own text has a blank after each comma and colon outside strings.
create function private.kv_compact_length(p_text text) returns integer
language plpgsql immutable set search_path = '' as $$
declare
  v_bare text := p_text;
begin
  if left(p_text, 1) = '"' then
    return octet_length(p_text);
  end if;
  if strpos(p_text, '"') > 0 then
    v_bare := regexp_replace(p_text, '"(?:[^"\\]|\\.)*"', '', 'g');
  end if;
  return octet_length(p_text) - (length(v_bare) - length(replace(v_bare, ' ', '')));
end
$$;

-- Raises where a value breaks a rule, whichever way it came.
create function private.kv_check_value(p_value jsonb, p_text text) returns void
language plpgsql stable set search_path = '' as $$
begin
  -- jsonb's blanks at most double a text: what is larger needs no counting.
  if octet_length(p_text) > 1048576
    and (octet_length(p_text) > 2097152 or private.kv_compact_length(p_text) > 1048576)
  then
    raise exception 'the value is over 1048576 bytes' using errcode = '54000', hint = 'KV_TOO_LARGE';
  end if;
  -- A text without 129 brackets is not nested deeper than 128; one without as many digits holds no number that large.
  if left(p_text, 1) = '"' or octet_length(p_text) < 258 then
    return;
  end if;
  if octet_length(p_text) - octet_length(replace(replace(p_text, '[', ''), '{', '')) > 128
    and jsonb_path_exists(p_value, 'strict $.**{128} ? (@.type() == "array" || @.type() == "object")')
  then
    raise exception 'the value is nested deeper than 128' using errcode = '22023', hint = 'KV_INVALID';
  end if;
  if p_text ~ '[0-9]{255}'
    and jsonb_path_exists(p_value, 'strict $.** ? (@ >= 1.7976931348623158e308 || @ <= -1.7976931348623158e308)')
  then
    raise exception 'a number is out of a double''s range' using errcode = '22023', hint = 'KV_INVALID';
  end if;
end
$$;

-- As the caller, and before the others (triggers go by their names): row level security refuses another worklet's row
-- only after them, and they would wait for that worklet's writers and lock them out.
create function private.kv_before_insert() returns trigger language plpgsql set search_path = '' as $$
begin
  -- One within the other: service_role may not call token_worklet.
  if current_user = 'worklet' then
    if new.worklet_id is not distinct from private.token_worklet() then
      return new;
    end if;
  elsif current_user <> 'authenticated' or exists (select from public.worklets w where w.id = new.worklet_id) then
    return new;
  end if;
  raise exception 'this token may not use that worklet' using errcode = '42501', hint = 'KV_FORBIDDEN';
end
$$;

create function private.kv_before_write() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz;
  v_text constant text := new.value::text;
begin
  if tg_op = 'UPDATE'
    and (new.worklet_id <> old.worklet_id or new.namespace <> old.namespace or new.key <> old.key)
  then
    raise exception 'an entry keeps its worklet, namespace and key' using errcode = '22023', hint = 'KV_INVALID';
  end if;
  perform private.kv_check_value(new.value, v_text);
  -- Already held after kv_enter_to_write; for those who write to the table itself.
  perform from private.kv_usage u where u.worklet_id = new.worklet_id for no key update;
  v_now := clock_timestamp();
  new.size := octet_length(new.namespace) + octet_length(new.key) + octet_length(v_text);
  new.version := nextval('private.kv_version');
  new.updated_at := v_now;
  if tg_op = 'INSERT' then
    new.created_at := v_now;
    return new;
  end if;
  new.id := old.id;
  -- What is written over an expired entry is a new one.
  new.created_at := case when old.expires_at <= v_now then v_now else old.created_at end;
  return new;
end
$$;

create function private.kv_before_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from private.kv_usage u where u.worklet_id = old.worklet_id for no key update;
  return old;
end
$$;

-- Deletes at most p_limit expired entries of a worklet, which is locked.
create function private.kv_delete_expired(p_worklet uuid, p_limit integer) returns integer
language plpgsql volatile set search_path = '' as $$
declare
  v_now constant timestamptz := clock_timestamp();
  v_count integer;
begin
  delete from public.worklet_kv_store s
    where s.worklet_id = p_worklet and s.expires_at <= v_now and s.id in (
      select e.id from public.worklet_kv_store e
      where e.worklet_id = p_worklet and e.expires_at <= v_now order by e.expires_at limit p_limit);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

-- For a worklet that grew to more than these keys and bytes. Raises when it is over its quota even without what has
-- expired. Who is over it may still shrink. Within kv_transaction only the end counts.
create function private.kv_check_quota(p_worklet uuid, p_keys bigint, p_bytes bigint) returns void
language plpgsql volatile set search_path = '' as $$
declare
  v_claims constant text := current_setting('request.jwt.claims', true);
  -- In a trigger. The owner sees entries outside of a request alone.
  v_owner constant boolean := current_user not in ('worklet', 'authenticated');
  v_deleted integer;
  v_many boolean;
  v_much boolean;
begin
  if current_setting('flow.kv_transaction', true) = p_worklet::text then
    return;
  end if;
  loop
    select u.keys > u.max_keys and u.keys > p_keys, u.bytes > u.max_bytes and u.bytes > p_bytes into v_many, v_much
      from private.kv_usage u where u.worklet_id = p_worklet;
    exit when not (v_many or v_much);
    if v_owner then
      perform set_config('request.jwt.claims', '', true);
    end if;
    v_deleted := private.kv_delete_expired(p_worklet, 1000);
    if v_owner then
      perform set_config('request.jwt.claims', coalesce(v_claims, ''), true);
    end if;
    exit when v_deleted = 0;
  end loop;
  if v_many then
    raise exception 'the worklet has no room for more keys' using errcode = '54000', hint = 'KV_QUOTA_KEYS';
  elsif v_much then
    raise exception 'the worklet has no room for more bytes' using errcode = '54000', hint = 'KV_QUOTA_BYTES';
  end if;
end
$$;

create function private.kv_after_insert() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_usage record;
begin
  for v_usage in
    with written_again as (
      delete from private.kv_tombstones t using inserted i
        where t.worklet_id = i.worklet_id and t.namespace = i.namespace and t.key = i.key returning t.worklet_id
    )
    update private.kv_usage u
      set keys = u.keys + n.keys, bytes = u.bytes + n.bytes, changed_at = clock_timestamp(),
        tombstones = u.tombstones - (select count(*) from written_again a where a.worklet_id = u.worklet_id)
      from (select i.worklet_id, count(*) as keys, sum(i.size) as bytes from inserted i group by i.worklet_id) n
      where u.worklet_id = n.worklet_id
      returning u.worklet_id, u.keys > u.max_keys or u.bytes > u.max_bytes as over
  loop
    if v_usage.over then
      perform private.kv_check_quota(v_usage.worklet_id, -1, -1);
    end if;
  end loop;
  return null;
end
$$;

create function private.kv_after_update() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_usage record;
begin
  for v_usage in
    update private.kv_usage u set bytes = u.bytes + n.bytes, changed_at = clock_timestamp()
      from (
        select c.worklet_id, sum(c.bytes)::bigint as bytes from (
          select a.worklet_id, a.size as bytes from after_update a
          union all select b.worklet_id, -b.size from before_update b
        ) c group by c.worklet_id
      ) n
      where u.worklet_id = n.worklet_id
      returning u.worklet_id, u.keys, n.bytes > 0 and u.bytes > u.max_bytes as over
  loop
    if v_usage.over then
      perform private.kv_check_quota(v_usage.worklet_id, v_usage.keys, -1);
    end if;
  end loop;
  return null;
end
$$;

-- Deletes the worklet's p_number oldest tombstones: watchers from before begin anew.
create function private.kv_forget(p_worklet uuid, p_number bigint) returns void
language plpgsql volatile set search_path = '' as $$
begin
  with gone as (
    delete from private.kv_tombstones t
      where t.worklet_id = p_worklet and (t.namespace, t.key) in (
        select d.namespace, d.key from private.kv_tombstones d
        where d.worklet_id = p_worklet order by d.version limit p_number)
      returning t.version
  )
  update private.kv_usage u
    set tombstones = u.tombstones - n.number, swept_version = greatest(u.swept_version, n.version)
    from (select count(*) as number, max(g.version) as version from gone g) n
    where u.worklet_id = p_worklet;
end
$$;

-- Tombstones take no more room than the entries may, or 20 MB: a worklet that deletes without end would fill the disk.
create function private.kv_after_delete() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_usage record;
begin
  -- Nothing for a worklet that goes altogether.
  for v_usage in
    update private.kv_usage u
      set keys = u.keys - n.keys, bytes = u.bytes - n.bytes, tombstones = u.tombstones + n.keys,
        changed_at = clock_timestamp()
      from (select d.worklet_id, count(*) as keys, sum(d.size) as bytes from deleted d group by d.worklet_id) n
      where u.worklet_id = n.worklet_id
      returning u.worklet_id, n.keys as deleted, u.tombstones,
        -- A namespace and a key, in the table and in an index, take up to 2 KiB.
        greatest(10000, u.bytes / 2048) as most
  loop
    if v_usage.deleted > v_usage.most then
      -- More at once than is remembered: not even for a moment, for the room would stay taken.
      delete from private.kv_tombstones t where t.worklet_id = v_usage.worklet_id;
      update private.kv_usage u set tombstones = 0, swept_version = nextval('private.kv_version')
        where u.worklet_id = v_usage.worklet_id;
      continue;
    end if;
    insert into private.kv_tombstones (worklet_id, namespace, key, version, deleted_at)
      select d.worklet_id, d.namespace, d.key, nextval('private.kv_version'), clock_timestamp()
      from deleted d where d.worklet_id = v_usage.worklet_id
      on conflict (worklet_id, namespace, key) do update
        set version = excluded.version, deleted_at = excluded.deleted_at;
    if v_usage.tombstones > v_usage.most then
      -- Some more, so that it is not the work of each deletion.
      perform private.kv_forget(v_usage.worklet_id, v_usage.tombstones - v_usage.most + 1000);
    end if;
  end loop;
  return null;
end
$$;

create trigger kv_before_insert before insert on public.worklet_kv_store
  for each row execute function private.kv_before_insert();
create trigger kv_before_write before insert or update on public.worklet_kv_store
  for each row execute function private.kv_before_write();
create trigger kv_before_delete before delete on public.worklet_kv_store
  for each row execute function private.kv_before_delete();
create trigger kv_after_insert after insert on public.worklet_kv_store
  referencing new table as inserted for each statement execute function private.kv_after_insert();
create trigger kv_after_update after update on public.worklet_kv_store
  referencing old table as before_update new table as after_update
  for each statement execute function private.kv_after_update();
create trigger kv_after_delete after delete on public.worklet_kv_store
  referencing old table as deleted for each statement execute function private.kv_after_delete();

create function private.worklet_added() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into private.kv_usage (worklet_id) values (new.id) on conflict do nothing;
  return null;
end
$$;

create function private.worklet_changed() returns trigger language plpgsql set search_path = '' as $$
begin
  new.created_at := old.created_at;
  new.updated_at := clock_timestamp();
  return new;
end
$$;

-- These two look as the caller: people may make worklets of their own, and delete those, through the API.
create function private.worklets_limited() returns trigger language plpgsql set search_path = '' as $$
begin
  -- Within: service_role may not call kv_person, which PostgreSQL would look at even where `and` stops before it.
  if current_user = 'authenticated' then
    if exists (select from public.worklets w where w.user_id = (select private.kv_person()) offset 1000) then
      raise exception 'a person makes at most 1000 worklets' using errcode = '42501', hint = 'KV_FORBIDDEN';
    end if;
  end if;
  return null;
end
$$;

create function private.worklet_kept() returns trigger language plpgsql set search_path = '' as $$
begin
  if current_user = 'authenticated'
    and exists (select from private.kv_usage u where u.worklet_id = old.id and u.registered)
  then
    raise exception 'Flow alone deletes its worklets' using errcode = '42501', hint = 'KV_FORBIDDEN';
  end if;
  return old;
end
$$;

create trigger worklets_limited after insert on public.worklets
  for each statement execute function private.worklets_limited();
create trigger worklet_kept before delete on public.worklets
  for each row execute function private.worklet_kept();
create trigger worklet_added after insert on public.worklets
  for each row execute function private.worklet_added();
create trigger worklet_changed before update on public.worklets
  for each row execute function private.worklet_changed();


-- ------------------------------------------------------------------------------------------- row level security, grants

alter table public.worklets enable row level security;
alter table public.worklets force row level security;
alter table public.worklet_kv_store enable row level security;
alter table public.worklet_kv_store force row level security;
alter table private.kv_usage enable row level security;
alter table private.kv_usage force row level security;
alter table private.kv_tombstones enable row level security;
alter table private.kv_tombstones force row level security;

-- Supabase's default privileges give all to all roles: take everything back first.
revoke all on public.worklets, public.worklet_kv_store, private.kv_usage, private.kv_tombstones
  from public, anon, authenticated, service_role;
revoke all on sequence private.kv_version from public, anon, authenticated, service_role;

grant select (id, name, created_at, updated_at) on public.worklets to worklet;
grant select, delete, insert (id, user_id, name), update (name) on public.worklets to authenticated;
grant select, delete on public.worklet_kv_store to worklet, authenticated;
grant insert (worklet_id, namespace, key, value, expires_at) on public.worklet_kv_store to worklet, authenticated;
-- The first three for `on conflict ... do update` of PostgREST's upsert; a trigger keeps them as they are.
grant update (worklet_id, namespace, key, value, expires_at) on public.worklet_kv_store to worklet, authenticated;
grant select on private.kv_usage, private.kv_tombstones to worklet, authenticated;
grant select, insert, update, delete on public.worklets, public.worklet_kv_store, private.kv_usage,
  private.kv_tombstones to service_role;
grant usage on sequence private.kv_version to service_role;

create policy worklets_worklet on public.worklets for select to worklet
  using (id = (select private.token_worklet()));
create policy worklets_person on public.worklets for all to authenticated
  using (user_id = (select private.kv_person())) with check (user_id = (select private.kv_person()));
create policy worklets_person_only on public.worklets as restrictive for all to authenticated
  using ((select private.kv_unmixed())) with check ((select private.kv_unmixed()));

create policy kv_worklet on public.worklet_kv_store for all to worklet
  using (worklet_id = (select private.token_worklet())) with check (worklet_id = (select private.token_worklet()));
create policy kv_person on public.worklet_kv_store for all to authenticated
  using (worklet_id = any (array(select private.owned_worklets())))
  with check (worklet_id = any (array(select private.owned_worklets())));
create policy kv_person_only on public.worklet_kv_store as restrictive for all to authenticated
  using ((select private.kv_unmixed())) with check ((select private.kv_unmixed()));

-- Not token_worklet(), which itself looks here for revocation.
create policy usage_worklet on private.kv_usage for select to worklet
  using (worklet_id = (select private.kv_claimed_worklet()));
create policy usage_person on private.kv_usage for select to authenticated
  using (worklet_id = any (array(select private.owned_worklets())));
create policy usage_person_only on private.kv_usage as restrictive for select to authenticated
  using ((select private.kv_unmixed()));
create policy tombstones_worklet on private.kv_tombstones for select to worklet
  using (worklet_id = (select private.token_worklet()));
create policy tombstones_person on private.kv_tombstones for select to authenticated
  using (worklet_id = any (array(select private.owned_worklets())));
create policy tombstones_person_only on private.kv_tombstones as restrictive for select to authenticated
  using ((select private.kv_unmixed()));

-- RLS is forced, so an owner without bypassrls needs policies too. Entries and worklets: only outside of requests, so that
-- even a function which wrongly runs as the owner shows a token nothing. Counters and tombstones: the triggers' work.
create policy worklets_keeper on public.worklets to current_user
  using ((select private.kv_claims()) is null) with check ((select private.kv_claims()) is null);
create policy kv_keeper on public.worklet_kv_store to current_user
  using ((select private.kv_claims()) is null) with check ((select private.kv_claims()) is null);
create policy usage_keeper on private.kv_usage to current_user using (true) with check (true);
create policy tombstones_keeper on private.kv_tombstones to current_user using (true) with check (true);


-- ---------------------------------------------------------------------------------------------- parts of the functions

-- Throughout, an entry is live when `expires_at is null or expires_at > now`.

create function private.kv_require(p_holds boolean, p_message text) returns void
language plpgsql immutable set search_path = '' as $$
begin
  if p_holds is not true then
    raise exception '%', p_message using errcode = '22023', hint = 'KV_INVALID';
  end if;
end
$$;

-- Raises when an answer would have more than 16 MiB of values.
create function private.kv_bound(p_bytes bigint) returns void
language plpgsql immutable set search_path = '' as $$
begin
  if p_bytes > 16777216 then
    raise exception 'the answer would be over 16777216 bytes' using errcode = '54000', hint = 'KV_TOO_LARGE';
  end if;
end
$$;

-- The time of expiry; null without one.
create function private.kv_expiry(p_ttl float8) returns timestamptz
language plpgsql volatile set search_path = '' as $$
begin
  if p_ttl is null then
    return null;
  end if;
  if not (p_ttl > 0 and p_ttl <= 315360000) then
    raise exception 'a ttl is more than 0 and at most 315360000 seconds' using errcode = '22023', hint = 'KV_INVALID';
  end if;
  return clock_timestamp() + make_interval(secs => p_ttl);
end
$$;

-- The first text in byte order after all that begin with this prefix.
create function private.kv_after_prefix(p_prefix text) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_stem text := p_prefix;
  v_last integer;
begin
  while v_stem <> '' loop
    v_last := ascii(right(v_stem, 1));
    v_stem := left(v_stem, -1);
    if v_last < 1114111 then
      -- U+D800 to U+DFFF are surrogates, no characters.
      return v_stem || chr(case v_last when 55295 then 57344 else v_last + 1 end);
    end if;
  end loop;
  -- After every key: 516 bytes of the highest character.
  return repeat(chr(1114111), 129);
end
$$;

-- Writes one entry; the worklet is locked. Returns its version.
create function private.kv_write(
  p_worklet uuid, p_namespace text, p_key text, p_value jsonb, p_expires_at timestamptz
) returns bigint language plpgsql volatile set search_path = '' as $$
declare
  v_version bigint;
begin
  update public.worklet_kv_store s set value = p_value, expires_at = p_expires_at
    where s.worklet_id = p_worklet and s.namespace = p_namespace and s.key = p_key
    returning s.version into v_version;
  if not found then
    insert into public.worklet_kv_store as s (worklet_id, namespace, key, value, expires_at)
      values (p_worklet, p_namespace, p_key, p_value, p_expires_at) returning s.version into v_version;
  end if;
  return v_version;
end
$$;

create function private.kv_read(p_worklet uuid, p_namespace text, p_key text) returns json
language plpgsql volatile set search_path = '' as $$
begin
  return (
    select json_build_object('key', s.key, 'value', s.value, 'version', s.version, 'created_at', s.created_at,
                             'updated_at', s.updated_at, 'expires_at', s.expires_at)
    from public.worklet_kv_store s
    where s.worklet_id = p_worklet and s.namespace = p_namespace and s.key = p_key
      and (s.expires_at is null or s.expires_at > clock_timestamp())
  );
end
$$;

-- The version of a live entry, else null.
create function private.kv_version_of(p_worklet uuid, p_namespace text, p_key text) returns bigint
language plpgsql volatile set search_path = '' as $$
begin
  return (
    select s.version from public.worklet_kv_store s
    where s.worklet_id = p_worklet and s.namespace = p_namespace and s.key = p_key
      and (s.expires_at is null or s.expires_at > clock_timestamp())
  );
end
$$;

create function private.kv_add(
  p_worklet uuid, p_namespace text, p_key text, p_delta numeric, p_ttl float8
) returns json language plpgsql volatile set search_path = '' as $$
declare
  v_value jsonb;
  v_expires_at timestamptz;
  v_sum numeric;
begin
  perform private.kv_require(p_delta not in ('NaN', 'Infinity', '-Infinity'), 'the delta is no number');
  select s.value, s.expires_at into v_value, v_expires_at from public.worklet_kv_store s
    where s.worklet_id = p_worklet and s.namespace = p_namespace and s.key = p_key
      and (s.expires_at is null or s.expires_at > clock_timestamp());
  if not found then
    v_value := '0';
    v_expires_at := private.kv_expiry(p_ttl);
  elsif jsonb_typeof(v_value) <> 'number' then
    raise exception 'the value is not a number' using errcode = '22023', hint = 'KV_NOT_A_NUMBER';
  end if;
  v_sum := v_value::numeric + p_delta;
  if abs(v_sum) >= 1.7976931348623158e308 then
    raise exception 'the sum is out of range' using errcode = '22023', hint = 'KV_OUT_OF_RANGE';
  end if;
  return json_build_object(
    'value', v_sum, 'version', private.kv_write(p_worklet, p_namespace, p_key, to_jsonb(v_sum), v_expires_at));
end
$$;

create function private.kv_extend(
  p_worklet uuid, p_namespace text, p_key text, p_value jsonb, p_ttl float8
) returns json language plpgsql volatile set search_path = '' as $$
declare
  v_is_text constant boolean := jsonb_typeof(p_value) = 'string';
  v_value jsonb;
  v_expires_at timestamptz;
begin
  perform private.kv_require(p_value is not null, 'the value is missing');
  select s.value, s.expires_at into v_value, v_expires_at from public.worklet_kv_store s
    where s.worklet_id = p_worklet and s.namespace = p_namespace and s.key = p_key
      and (s.expires_at is null or s.expires_at > clock_timestamp());
  if not found then
    v_value := case when v_is_text then p_value else jsonb_build_array(p_value) end;
    v_expires_at := private.kv_expiry(p_ttl);
  elsif jsonb_typeof(v_value) = 'array' then
    v_value := v_value || jsonb_build_array(p_value);
  elsif jsonb_typeof(v_value) = 'string' and v_is_text then
    v_value := to_jsonb((v_value #>> '{}') || (p_value #>> '{}'));
  else
    raise exception 'the value cannot be appended to' using errcode = '22023', hint = 'KV_NOT_APPENDABLE';
  end if;
  return json_build_object(
    'length', case jsonb_typeof(v_value) when 'array' then jsonb_array_length(v_value) else length(v_value #>> '{}') end,
    'version', private.kv_write(p_worklet, p_namespace, p_key, v_value, v_expires_at));
end
$$;

-- Deletes, expired entries too, but counts the live ones only.
create function private.kv_remove(p_worklet uuid, p_namespace text, p_keys text[]) returns integer
language plpgsql volatile set search_path = '' as $$
declare
  v_count integer;
begin
  with gone as (
    delete from public.worklet_kv_store s
      where s.worklet_id = p_worklet and s.namespace = p_namespace and s.key = any (p_keys) returning s.expires_at
  )
  select count(*) into v_count from gone g where g.expires_at is null or g.expires_at > clock_timestamp();
  return v_count;
end
$$;


-- ------------------------------------------------------------------------------------------------ the functions: reading

create function public.kv_get(p_namespace text, p_key text, p_worklet_id uuid default null) returns json
language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
begin
  return (
    select json_build_object('key', s.key, 'value', s.value, 'version', s.version, 'created_at', s.created_at,
                             'updated_at', s.updated_at, 'expires_at', s.expires_at)
    from public.worklet_kv_store s
    where s.worklet_id = v_worklet and s.namespace = p_namespace and s.key = p_key
      and (s.expires_at is null or s.expires_at > now())
  );
end
$$;

create function public.kv_has(p_namespace text, p_key text, p_worklet_id uuid default null) returns boolean
language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
begin
  return exists (
    select from public.worklet_kv_store s
    where s.worklet_id = v_worklet and s.namespace = p_namespace and s.key = p_key
      and (s.expires_at is null or s.expires_at > now())
  );
end
$$;

create function public.kv_mget(p_namespace text, p_keys text[], p_worklet_id uuid default null) returns json
language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
begin
  perform private.kv_require(cardinality(p_keys) <= 1000, 'at most 1000 keys');
  if cardinality(p_keys) > 7 then
    perform private.kv_bound((
      select sum(s.size) from public.worklet_kv_store s
      where s.worklet_id = v_worklet and s.namespace = p_namespace and s.key = any (p_keys)
        and (s.expires_at is null or s.expires_at > now())));
  end if;
  return (
    select coalesce(json_agg(json_build_object(
             'key', s.key, 'value', s.value, 'version', s.version, 'created_at', s.created_at,
             'updated_at', s.updated_at, 'expires_at', s.expires_at)), '[]')
    from public.worklet_kv_store s
    where s.worklet_id = v_worklet and s.namespace = p_namespace and s.key = any (p_keys)
      and (s.expires_at is null or s.expires_at > now())
  );
end
$$;

create function public.kv_list(
  p_namespace text, p_prefix text default '', p_cursor text default null, p_limit integer default 100,
  p_values boolean default false, p_worklet_id uuid default null
) returns json language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
  v_first constant text := coalesce(p_prefix, '');
  v_end constant text := private.kv_after_prefix(v_first);
  v_after constant text := coalesce(p_cursor, '');
  v_limit constant integer := p_limit;
  v_entries json;
  v_count integer;
  v_last text;
begin
  perform private.kv_require(v_limit between 1 and 1000, 'a limit is 1 to 1000');
  if p_values then
    -- A page ends with the entry that fills 4 MiB.
    select json_agg(json_build_object(
             'key', p.key, 'value', p.value, 'version', p.version, 'created_at', p.created_at,
             'updated_at', p.updated_at, 'expires_at', p.expires_at) order by p.key), count(*), max(p.key)
      into v_entries, v_count, v_last
      from (
        select s.*, sum(s.size) over (order by s.key) - s.size as before, count(*) over () as found
        from (
          select * from public.worklet_kv_store t
          where t.worklet_id = v_worklet and t.namespace = p_namespace
            and t.key >= v_first and t.key < v_end and t.key > v_after
            and (t.expires_at is null or t.expires_at > now())
          order by t.key limit v_limit
        ) s
      ) p where p.before < 4194304;
  else
    select json_agg(json_build_object(
             'key', p.key, 'version', p.version, 'created_at', p.created_at, 'updated_at', p.updated_at,
             'expires_at', p.expires_at) order by p.key), count(*), max(p.key)
      into v_entries, v_count, v_last
      from (
        select t.key, t.version, t.created_at, t.updated_at, t.expires_at from public.worklet_kv_store t
        where t.worklet_id = v_worklet and t.namespace = p_namespace
          and t.key >= v_first and t.key < v_end and t.key > v_after
          and (t.expires_at is null or t.expires_at > now())
        order by t.key limit v_limit
      ) p;
  end if;
  -- Whether there is more: a look at the next key.
  if v_count > 0 and not exists (
    select from public.worklet_kv_store t
    where t.worklet_id = v_worklet and t.namespace = p_namespace and t.key < v_end and t.key > v_last
      and (t.expires_at is null or t.expires_at > now())
  ) then
    v_last := null;
  end if;
  return json_build_object('entries', coalesce(v_entries, '[]'), 'cursor', v_last);
end
$$;

-- One look into the index a namespace, however many keys each has.
create function private.kv_namespaces(p_worklet uuid) returns setof text
language plpgsql stable set search_path = '' as $$
declare
  v_namespace text := '';
begin
  loop
    select s.namespace into v_namespace from public.worklet_kv_store s
      where s.worklet_id = p_worklet and s.namespace > v_namespace
        and (s.expires_at is null or s.expires_at > now())
      order by s.namespace limit 1;
    exit when not found;
    return next v_namespace;
  end loop;
end
$$;

create function public.kv_list_namespaces(p_worklet_id uuid default null) returns json
language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
begin
  return (select coalesce(json_agg(n), '[]') from private.kv_namespaces(v_worklet) n);
end
$$;

create function public.kv_stats(p_worklet_id uuid default null) returns json
language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
begin
  return (
    select json_build_object(
      'keys', u.keys, 'bytes', u.bytes, 'namespaces', (select count(*) from private.kv_namespaces(v_worklet)),
      'max_keys', u.max_keys, 'max_bytes', u.max_bytes, 'changed_at', u.changed_at)
    from private.kv_usage u where u.worklet_id = v_worklet
  );
end
$$;

-- A cursor is the version up to which its reader has seen everything; while a reader walks through all that is there,
-- "position-base", where base is the newest version at the walk's beginning: deletions before that do not concern it.
create function public.kv_watch(
  p_namespace text default null, p_prefix text default '', p_cursor text default null, p_limit integer default 1000,
  p_wait float8 default 0, p_worklet_id uuid default null
) returns json language plpgsql stable set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter(p_worklet_id);
  v_first constant text := coalesce(p_prefix, '');
  v_end constant text := private.kv_after_prefix(v_first);
  v_position bigint;
  v_base bigint;
  v_newest bigint;
  v_reset boolean := false;
  v_changes json;
  v_count integer;
  v_full boolean;
  v_last bigint;
begin
  perform private.kv_require(p_limit between 1 and 1000, 'a limit is 1 to 1000');
  perform private.kv_require(p_cursor is null or p_cursor ~ '^[0-9]{1,18}(-[0-9]{1,18})?$', 'this is no cursor of a watch');
  v_newest := greatest(
    0, (select max(s.version) from public.worklet_kv_store s where s.worklet_id = v_worklet),
    (select max(t.version) from private.kv_tombstones t where t.worklet_id = v_worklet),
    (select u.swept_version from private.kv_usage u where u.worklet_id = v_worklet));
  if p_cursor is null then
    return json_build_object('changes', '[]'::json, 'cursor', v_newest::text, 'reset', false);
  end if;
  v_position := split_part(p_cursor, '-', 1)::bigint;
  v_base := coalesce(nullif(split_part(p_cursor, '-', 2), '')::bigint, case v_position when 0 then v_newest else v_position end);
  -- Behind a deletion that is forgotten; or ahead of everything, as after a backup was restored.
  if v_base > v_newest or v_position > v_base
    or (select u.swept_version from private.kv_usage u where u.worklet_id = v_worklet) > v_base
  then
    v_reset := true;
    v_position := 0;
    v_base := v_newest;
  end if;
  select json_agg(c.change order by c.version), count(*), coalesce(bool_or(c.found = p_limit or c.before + c.size >= 4194304), false),
      max(c.version)
    into v_changes, v_count, v_full, v_last
    from (
      select a.version, a.size, sum(a.size) over (order by a.version) - a.size as before, count(*) over () as found,
        case when a.deleted
          then json_build_object('namespace', a.namespace, 'key', a.key, 'version', a.version, 'deleted', true,
                                 'updated_at', a.updated_at)
          else json_build_object('namespace', a.namespace, 'key', a.key, 'version', a.version, 'deleted', false,
                                 'value', a.value, 'updated_at', a.updated_at) end as change
      from (
        (select s.version, s.namespace, s.key, false as deleted, s.value, s.size, s.updated_at
          from public.worklet_kv_store s
          where s.worklet_id = v_worklet and s.version > v_position
            and (p_namespace is null or s.namespace = p_namespace) and s.key >= v_first and s.key < v_end
            and (s.expires_at is null or s.expires_at > now())
          order by s.version limit p_limit)
        union all
        (select t.version, t.namespace, t.key, true, null, 0, t.deleted_at
          from private.kv_tombstones t
          where t.worklet_id = v_worklet and t.version > greatest(v_position, v_base)
            and (p_namespace is null or t.namespace = p_namespace) and t.key >= v_first and t.key < v_end
          order by t.version limit p_limit)
        order by version limit p_limit
      ) a
    ) c where c.before < 4194304;
  if not v_full then
    v_last := greatest(v_newest, v_base);
  end if;
  return json_build_object(
    'changes', coalesce(v_changes, '[]'),
    'cursor', case when v_last < v_base then v_last || '-' || v_base else v_last::text end,
    'reset', v_reset);
end
$$;


-- ------------------------------------------------------------------------------------------------ the functions: writing

create function public.kv_set(
  p_namespace text, p_key text, p_value text, p_ttl float8 default null, p_if_version bigint default null,
  p_only_if_absent boolean default false, p_worklet_id uuid default null
) returns json language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
  v_present bigint;
begin
  perform private.kv_require(p_namespace is not null and p_key is not null and p_value is not null,
                             'the namespace, the key or the value is missing');
  if p_if_version is not null or p_only_if_absent then
    v_present := private.kv_version_of(v_worklet, p_namespace, p_key);
    if p_only_if_absent and v_present is not null or p_if_version is not null and v_present is distinct from p_if_version then
      return json_build_object('version', null);
    end if;
  end if;
  return json_build_object(
    'version', private.kv_write(v_worklet, p_namespace, p_key, p_value::jsonb, private.kv_expiry(p_ttl)));
end
$$;

create function public.kv_mset(
  p_namespace text, p_entries text, p_ttl float8 default null, p_worklet_id uuid default null
) returns integer language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
  v_expires_at constant timestamptz := private.kv_expiry(p_ttl);
  v_entries constant jsonb := p_entries::jsonb;
  v_count integer;
begin
  perform private.kv_require(p_namespace is not null and jsonb_typeof(v_entries) = 'object', 'the entries are no object');
  perform private.kv_require((select count(*) from jsonb_object_keys(v_entries)) <= 1000, 'at most 1000 entries');
  insert into public.worklet_kv_store (worklet_id, namespace, key, value, expires_at)
    select v_worklet, p_namespace, e.key, e.value, v_expires_at from jsonb_each(v_entries) e order by e.key collate "C"
    on conflict (worklet_id, namespace, key) do update set value = excluded.value, expires_at = excluded.expires_at;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

create function public.kv_delete(
  p_namespace text, p_keys text[], p_if_version bigint default null, p_worklet_id uuid default null
) returns integer language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
begin
  perform private.kv_require(cardinality(p_keys) <= 1000, 'at most 1000 keys');
  if p_if_version is not null then
    perform private.kv_require(cardinality(p_keys) = 1, 'if_version goes with one key');
    if private.kv_version_of(v_worklet, p_namespace, p_keys[array_lower(p_keys, 1)]) is distinct from p_if_version then
      return 0;
    end if;
  end if;
  return private.kv_remove(v_worklet, p_namespace, p_keys);
end
$$;

create function public.kv_clear(p_namespace text, p_worklet_id uuid default null) returns integer
language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
  v_count integer;
begin
  with gone as (
    delete from public.worklet_kv_store s
      where s.worklet_id = v_worklet and (p_namespace is null or s.namespace = p_namespace) returning s.expires_at
  )
  select count(*) into v_count from gone g where g.expires_at is null or g.expires_at > clock_timestamp();
  return v_count;
end
$$;

-- For Flow's gateway: a part of kv_clear, at most p_limit entries that are not newer than p_bound, which is the newest
-- version of all where it is null. Each part is a transaction, so that a large store can be cleared at all.
create function private.kv_clear_part(p_namespace text, p_bound bigint, p_limit integer, p_worklet_id uuid default null)
returns json language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
  v_bound constant bigint := coalesce(
    p_bound, (select max(s.version) from public.worklet_kv_store s where s.worklet_id = v_worklet), 0);
  v_count integer;
  v_live integer;
begin
  with gone as (
    delete from public.worklet_kv_store s
      where s.id in (
        select e.id from public.worklet_kv_store e
        where e.worklet_id = v_worklet and (p_namespace is null or e.namespace = p_namespace) and e.version <= v_bound
        limit p_limit)
      returning s.expires_at
  )
  select count(*), count(*) filter (where g.expires_at is null or g.expires_at > clock_timestamp())
    into v_count, v_live from gone g;
  return json_build_object('deleted', v_live, 'bound', v_bound, 'more', v_count = p_limit);
end
$$;

create function public.kv_increment(
  p_namespace text, p_key text, p_delta numeric default 1, p_ttl float8 default null, p_worklet_id uuid default null
) returns json language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
begin
  perform private.kv_require(p_namespace is not null and p_key is not null, 'the namespace or the key is missing');
  return private.kv_add(v_worklet, p_namespace, p_key, p_delta, p_ttl);
end
$$;

create function public.kv_append(
  p_namespace text, p_key text, p_value text, p_ttl float8 default null, p_worklet_id uuid default null
) returns json language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
begin
  perform private.kv_require(p_namespace is not null and p_key is not null, 'the namespace or the key is missing');
  return private.kv_extend(v_worklet, p_namespace, p_key, p_value::jsonb, p_ttl);
end
$$;

-- One operation of a transaction. A check that fails raises 'KVCHK', which kv_transaction catches.
create function private.kv_operate(p_worklet uuid, p_operation jsonb) returns json
language plpgsql volatile set search_path = '' as $$
declare
  v_namespace constant text := coalesce(p_operation ->> 'namespace', 'default');
  v_key constant text := p_operation ->> 'key';
  v_ttl constant float8 := (p_operation ->> 'ttl')::float8;
begin
  perform private.kv_require(v_key is not null, 'an operation without a key');
  case p_operation ->> 'op'
    when 'check' then
      if private.kv_version_of(p_worklet, v_namespace, v_key) is distinct from (p_operation ->> 'version')::bigint then
        raise exception 'a check failed' using errcode = 'KVCHK';
      end if;
      return 'null';
    when 'get' then
      return coalesce(private.kv_read(p_worklet, v_namespace, v_key), 'null');
    when 'set' then
      perform private.kv_require(p_operation ? 'value', 'a set without a value');
      return json_build_object('version', private.kv_write(
        p_worklet, v_namespace, v_key, p_operation -> 'value', private.kv_expiry(v_ttl)));
    when 'delete' then
      return json_build_object('deleted', private.kv_remove(p_worklet, v_namespace, array[v_key]) > 0);
    when 'increment' then
      return private.kv_add(p_worklet, v_namespace, v_key, coalesce((p_operation ->> 'delta')::numeric, 1), v_ttl);
    when 'append' then
      return private.kv_extend(p_worklet, v_namespace, v_key, p_operation -> 'value', v_ttl);
    else
      raise exception 'there is no such operation' using errcode = '22023', hint = 'KV_INVALID';
  end case;
end
$$;

create function public.kv_transaction(p_operations text, p_worklet_id uuid default null) returns json
language plpgsql volatile set search_path = '' as $$
declare
  v_worklet constant uuid := private.kv_enter_to_write(p_worklet_id);
  v_operations constant jsonb := p_operations::jsonb;
  v_operation jsonb;
  v_result json;
  v_results json[] := '{}';
  v_size bigint := 0;
  v_keys bigint;
  v_bytes bigint;
begin
  perform private.kv_require(jsonb_typeof(v_operations) = 'array', 'the operations are no array');
  perform private.kv_require(jsonb_array_length(v_operations) <= 1000, 'at most 1000 operations');
  select u.keys, u.bytes into v_keys, v_bytes from private.kv_usage u where u.worklet_id = v_worklet;
  begin
    perform set_config('flow.kv_transaction', v_worklet::text, true);
    for v_operation in select e from jsonb_array_elements(v_operations) e loop
      v_result := private.kv_operate(v_worklet, v_operation);
      v_size := v_size + octet_length(v_result::text);
      perform private.kv_bound(v_size);
      v_results := v_results || v_result;
    end loop;
    perform set_config('flow.kv_transaction', '', true);
  exception when sqlstate 'KVCHK' then
    -- What the operations before it wrote is undone by now.
    return json_build_object('committed', false, 'failed', cardinality(v_results));
  end;
  perform private.kv_check_quota(v_worklet, v_keys, v_bytes);
  return json_build_object('committed', true, 'results', array_to_json(v_results));
end
$$;


-- ---------------------------------------------------------------------- for Flow itself: the owner's login, service_role

-- Adds a worklet, or brings its owner, name and quotas up to date. What somebody else made under this id goes first.
create function public.kv_admin_register(
  p_worklet_id uuid, p_owner_id uuid, p_name text default '', p_max_keys bigint default null,
  p_max_bytes bigint default null
) returns void language plpgsql volatile set search_path = '' as $$
begin
  if exists (
    select from public.worklets w join private.kv_usage u on u.worklet_id = w.id
    where w.id = p_worklet_id and w.user_id <> p_owner_id and not u.registered
  ) then
    perform public.kv_admin_remove(p_worklet_id);
  end if;
  insert into public.worklets as w (id, user_id, name) values (p_worklet_id, p_owner_id, coalesce(p_name, ''))
    on conflict (id) do update set user_id = excluded.user_id, name = excluded.name
    where (w.user_id, w.name) is distinct from (excluded.user_id, excluded.name);
  update private.kv_usage u
    set max_keys = coalesce(p_max_keys, u.max_keys), max_bytes = coalesce(p_max_bytes, u.max_bytes), registered = true
    where u.worklet_id = p_worklet_id;
end
$$;

-- Voids the tokens that were issued before p_from.
create function public.kv_admin_revoke(p_worklet_id uuid, p_from timestamptz) returns void
language plpgsql volatile set search_path = '' as $$
begin
  update private.kv_usage u set tokens_from = greatest(u.tokens_from, p_from) where u.worklet_id = p_worklet_id;
end
$$;

create function public.kv_admin_remove(p_worklet_id uuid) returns void
language plpgsql volatile set search_path = '' as $$
begin
  -- The counters first: without them the entries leave no tombstones, which would only go with them.
  delete from private.kv_usage u where u.worklet_id = p_worklet_id;
  delete from public.worklets w where w.id = p_worklet_id;
end
$$;

create function public.kv_admin_worklets() returns json language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(json_agg(json_build_object('id', w.id, 'owner_id', w.user_id, 'name', w.name)
                             order by w.created_at, w.id), '[]')
    from public.worklets w
  );
end
$$;

-- Of one worklet, which is locked: at most p_limit expired entries, and as many tombstones over 24 hours old.
create function private.kv_sweep_worklet(p_worklet uuid, p_limit integer) returns integer
language plpgsql volatile set search_path = '' as $$
declare
  v_entries constant integer := private.kv_delete_expired(p_worklet, p_limit);
  v_tombstones integer;
begin
  with gone as (
    delete from private.kv_tombstones t
      where t.worklet_id = p_worklet and t.deleted_at < clock_timestamp() - interval '24 hours'
        and (t.namespace, t.key) in (
          select d.namespace, d.key from private.kv_tombstones d
          where d.worklet_id = p_worklet order by d.version limit p_limit)
      returning t.version
  ), newest as (
    select count(*) as number, max(g.version) as version from gone g
  ), noted as (
    update private.kv_usage u
      set tombstones = u.tombstones - n.number, swept_version = greatest(u.swept_version, n.version)
      from newest n where u.worklet_id = p_worklet and n.number > 0 returning n.number
  )
  select coalesce(sum(n.number), 0) into v_tombstones from noted n;
  return v_entries + v_tombstones;
end
$$;

-- Deletes expired entries, and tombstones over 24 hours old, at most p_limit or so. Returns how many; 0 when there is
-- no more. First of worklets that nobody writes to; when only others are left, it waits a moment for one of those.
create function private.kv_sweep(p_limit integer default 10000) returns integer
language plpgsql volatile set search_path = '' as $$
declare
  v_worklet uuid;
  v_total integer := 0;
begin
  for v_worklet in
    select u.worklet_id from private.kv_usage u
    where exists (
        select from public.worklet_kv_store s where s.worklet_id = u.worklet_id and s.expires_at <= clock_timestamp())
      or (select t.deleted_at from private.kv_tombstones t where t.worklet_id = u.worklet_id order by t.version limit 1)
        < clock_timestamp() - interval '24 hours'
    order by random()
  loop
    perform from private.kv_usage u where u.worklet_id = v_worklet for no key update skip locked;
    if found then
      v_total := v_total + private.kv_sweep_worklet(v_worklet, p_limit - v_total);
    end if;
    exit when v_total >= p_limit;
  end loop;
  if v_total = 0 and v_worklet is not null then
    perform set_config('lock_timeout', '500ms', true);
    begin
      perform from private.kv_usage u where u.worklet_id = v_worklet for no key update;
    exception when lock_not_available then
      return 0;
    end;
    v_total := private.kv_sweep_worklet(v_worklet, p_limit);
  end if;
  return v_total;
end
$$;

create function public.kv_admin_sweep(p_limit integer default 10000) returns integer
language plpgsql volatile set search_path = '' as $$
begin
  return private.kv_sweep(p_limit);
end
$$;


-- -------------------------------------------------------------------------------------------------- who may call what

-- By name: a project may have functions of its own in these schemas.
do $$
declare
  v_public constant text[] := array[
    'kv_get', 'kv_has', 'kv_mget', 'kv_list', 'kv_list_namespaces', 'kv_stats', 'kv_watch', 'kv_set', 'kv_mset',
    'kv_delete', 'kv_clear', 'kv_increment', 'kv_append', 'kv_transaction'];
  v_admin constant text[] := array[
    'kv_admin_register', 'kv_admin_revoke', 'kv_admin_remove', 'kv_admin_worklets', 'kv_admin_sweep', 'kv_sweep',
    'kv_sweep_worklet'];
  -- Of the functions above that run as their callers.
  v_parts constant text[] := array[
    'kv_claims', 'kv_claimed_worklet', 'kv_person', 'kv_unmixed', 'token_worklet', 'owned_worklets', 'kv_enter',
    'kv_lock', 'kv_enter_to_write', 'kv_require', 'kv_bound', 'kv_delete_expired', 'kv_check_quota', 'kv_expiry',
    'kv_after_prefix', 'kv_write', 'kv_read', 'kv_version_of', 'kv_add', 'kv_extend', 'kv_remove', 'kv_namespaces',
    'kv_operate'];
  v_gateway constant text[] := array['kv_assume', 'kv_revision'];
  v_inner constant text[] := array[
    'kv_compact_length', 'kv_check_value', 'kv_before_insert', 'kv_before_write', 'kv_before_delete', 'kv_after_insert',
    'kv_after_update', 'kv_after_delete', 'kv_forget', 'worklet_added', 'worklet_changed', 'worklet_kept',
    'worklets_limited'];
  v_function record;
begin
  for v_function in
    select p.oid::regprocedure as name, p.proname, n.nspname from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where p.proowner = current_user::regrole and (
      n.nspname = 'public' and p.proname = any (v_public || v_admin)
      or n.nspname = 'private' and p.proname = any (v_admin || v_parts || v_gateway || v_inner || '{kv_clear_part}'))
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role', v_function.name);
    if v_function.proname = any (v_admin) then
      execute format('grant execute on function %s to service_role', v_function.name);
    elsif v_function.proname = any (v_public || '{kv_clear_part}') then
      -- authenticator too: PostgreSQL looks before the statement in which Flow's gateway takes on the caller's role.
      execute format('grant execute on function %s to worklet, authenticated, authenticator', v_function.name);
    elsif v_function.proname = any (v_gateway) then
      execute format('grant execute on function %s to authenticator', v_function.name);
    elsif v_function.proname = any (v_parts) then
      execute format('grant execute on function %s to worklet, authenticated', v_function.name);
    end if;
    if v_function.proname = 'kv_delete_expired' then
      execute format('grant execute on function %s to service_role', v_function.name);
    end if;
  end loop;
end
$$;

-- Housekeeping by pg_cron where it is; elsewhere Flow's scheduler calls the same function.
do $$
begin
  if exists (select from pg_catalog.pg_extension where extname = 'pg_cron') then
    perform cron.schedule('flow-kv-sweep', '* * * * *', 'select private.kv_sweep()');
  end if;
end
$$;

notify pgrst, 'reload schema';

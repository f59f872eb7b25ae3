"""Random operations of many callers on the store in PostgreSQL, each judged by an exact model of whose rows are where.

Every value holds its worklet's mark, so that a row from across the line is seen wherever it turns up. Operations are
run many a round trip by a function in the database, which takes on the role and claims of each as PostgREST would.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvwalls import person_claims, worklet_claims

RUNNER = """
create schema fuzz;
create function fuzz.run(p_operations jsonb) returns jsonb language plpgsql as $$
declare
  v_operation jsonb;
  v_answer text;
  v_results jsonb[] := '{}';
begin
  for v_operation in select e from jsonb_array_elements(p_operations) e loop
    begin
      perform set_config('request.jwt.claims', v_operation ->> 'claims', true);
      perform set_config('role', v_operation ->> 'role', true);
      execute v_operation ->> 'sql' into v_answer
        using array(select jsonb_array_elements_text(v_operation -> 'arguments'));
      perform set_config('role', 'none', true);
      v_results := v_results || jsonb_build_object('answer', v_answer);
    exception when others then
      v_results := v_results || jsonb_build_object('state', sqlstate);
    end;
  end loop;
  return to_jsonb(v_results);
end
$$
"""

NAMES = [
    "a", "b", "c", "key:1", "key:2", "zebra", "é", "日本", "%", "_", "*", "\\", "'", '"', "$1", "$$", "--", "{}",
    "null", "..", "' or true --", "'; drop table public.worklet_kv_store; --",
    "a' union select value::text from public.worklet_kv_store --",
    '","worklet_id":"', "(select set_config('role','postgres',true))", "eq.a&worklet_id=neq.x", "\u202e", "\U0010ffff",
]  # fmt: skip
NAMESPACES = ["default", "n", "' or 1=1 --"]


@dataclass
class Tenant:
    id: str
    owner: str
    rows: dict[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return f"mark-{self.id}"


@dataclass
class Operation:
    role: str
    claims: str
    sql: str
    arguments: list[str | None]
    judge: Callable[[Any], None]
    """Gets the answer; where one SQLSTATE or another is right, `refused` does without."""
    refused: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    """Of the worklets whose values the caller may see."""

    def sent(self) -> dict[str, Any]:
        return {"role": self.role, "claims": self.claims, "sql": self.sql, "arguments": self.arguments}


_SIGNATURES = {
    "kv_get": "$1[1], $1[2], p_worklet_id => $1[9]::uuid",
    "kv_has": "$1[1], $1[2], p_worklet_id => $1[9]::uuid",
    "kv_mget": "$1[1], $1[2]::text[], p_worklet_id => $1[9]::uuid",
    "kv_list": "$1[1], $1[2], $1[3], 1000, $1[4]::boolean, p_worklet_id => $1[9]::uuid",
    "kv_list_namespaces": "p_worklet_id => $1[9]::uuid",
    "kv_stats": "p_worklet_id => $1[9]::uuid",
    "kv_watch": "$1[1], $1[2], '0', p_worklet_id => $1[9]::uuid",
    "kv_set": "$1[1], $1[2], $1[3], p_only_if_absent => $1[4]::boolean, p_worklet_id => $1[9]::uuid",
    "kv_mset": "$1[1], $1[2], p_worklet_id => $1[9]::uuid",
    "kv_delete": "$1[1], $1[2]::text[], p_worklet_id => $1[9]::uuid",
    "kv_clear": "$1[1], p_worklet_id => $1[9]::uuid",
    "kv_increment": "$1[1], $1[2], $1[3]::numeric, p_worklet_id => $1[9]::uuid",
    "kv_append": "$1[1], $1[2], $1[3], p_worklet_id => $1[9]::uuid",
    "kv_transaction": "$1[1], p_worklet_id => $1[9]::uuid",
}
_CHEAP = ("kv_get", "kv_has", "kv_mget", "kv_set", "kv_delete", "kv_increment", "kv_append")


def _array(names: list[str]) -> str:
    """An array as PostgreSQL reads it from text."""
    return "{" + ",".join('"' + n.replace("\\", "\\\\").replace('"', '\\"') + '"' for n in names) + "}"


class Fuzz:
    """Four worklets of two people, on one connection: nobody else touches them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        owners = [str(uuid.UUID(int=self.random.getrandbits(128), version=4)) for _ in range(2)]
        self.tenants = [
            Tenant(str(uuid.UUID(int=self.random.getrandbits(128), version=4)), owners[n // 2]) for n in range(4)
        ]
        self.counts: dict[str, int] = {}

    def operation(self) -> Operation:
        kind = self.random.choices(
            (self.own, self.across, self.bad_token, self.table, self.table_across), (46, 22, 18, 7, 7)
        )[0]
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        return kind()

    def judge(self, operation: Operation, result: dict[str, Any]) -> None:
        """Fails for anything but what the model says."""
        text = json.dumps(result, ensure_ascii=False)
        for tenant in self.tenants:
            assert tenant.mark in operation.marks or tenant.mark not in text, f"{operation} saw {text}"
        if operation.refused:
            assert result.get("state") in operation.refused, f"{operation} gave {text}"
        else:
            assert "state" not in result, f"{operation} gave {text}"
            operation.judge(result["answer"])

    def _caller(self, tenant: Tenant) -> tuple[str, str, str | None]:
        """One who may: the worklet itself, or its owner, who names it."""
        if self.random.random() < 0.8:
            return "worklet", json.dumps(worklet_claims(tenant.id)), self.random.choice((None, tenant.id))
        return "authenticated", json.dumps(person_claims(tenant.owner)), tenant.id

    def _call(self, name: str, role: str, claims: str, worklet: str | None, arguments: list[str | None]) -> Operation:
        filled = [*arguments, *[None] * (8 - len(arguments)), worklet]
        return Operation(role, claims, f"select public.{name}({_SIGNATURES[name]})::text", filled, lambda _: None)

    def own(self) -> Operation:
        """What a caller may: the answer is exactly the model's."""
        tenant = self.random.choice(self.tenants)
        role, claims, worklet = self._caller(tenant)
        rare = self.random.random() < 0.15
        name = self.random.choice(tuple(_SIGNATURES) if rare else _CHEAP)
        arguments, judge = getattr(self, f"_{name}")(tenant)
        operation = self._call(name, role, claims, worklet, arguments)
        operation.judge, operation.marks = judge, (tenant.mark,)
        return operation

    def across(self) -> Operation:
        """A good token that names another worklet."""
        tenant, other = self.random.sample(self.tenants, 2)
        name = self.random.choice(tuple(_SIGNATURES))
        arguments, _ = getattr(self, f"_{name}")(other)
        if tenant.owner != other.owner and self.random.random() < 0.5:
            operation = self._call(name, "authenticated", json.dumps(person_claims(tenant.owner)), other.id, arguments)
        else:
            operation = self._call(name, "worklet", json.dumps(worklet_claims(tenant.id)), other.id, arguments)
        operation.refused = ("42501",)
        return operation

    def bad_token(self) -> Operation:
        tenant, other = self.random.sample(self.tenants, 2)
        role, claims = self.random.choice((
            ("anon", ""), ("anon", json.dumps(worklet_claims(tenant.id))), ("worklet", ""), ("authenticated", ""),
            ("service_role", ""), ("worklet", json.dumps({"role": "worklet", "sub": tenant.owner})),
            ("worklet", json.dumps({"worklet_id": str(uuid.uuid4())})), ("worklet", json.dumps([tenant.id])),
            ("worklet", json.dumps({"worklet_id": [tenant.id]})),
            ("worklet", json.dumps({"worklet_id": tenant.id + "' or true"})),
            ("worklet", json.dumps({"worklet_id": {"eq": tenant.id}})), ("worklet", "not json"),
            ("authenticated", json.dumps(person_claims(tenant.owner, worklet_id=tenant.id))),
            ("authenticated", json.dumps(worklet_claims(tenant.id))),
            ("authenticated", json.dumps(person_claims(tenant.id))),
            ("authenticated", json.dumps({"sub": "' or true --"})),
            ("worklet", json.dumps(worklet_claims(tenant.id, iat=1_000_000_000))),
        ))  # fmt: skip
        name = self.random.choice(tuple(_SIGNATURES))
        arguments, _ = getattr(self, f"_{name}")(other)
        worklet = self.random.choice((tenant.id, other.id))
        operation = self._call(name, role, claims, worklet, arguments)
        operation.refused = ("42501", "22P02")
        return operation

    # Each function's arguments, and what its answer must be; the model changes when the answer is judged.

    def _place(self) -> tuple[str, str]:
        return self.random.choice(NAMESPACES), self.random.choice(NAMES)

    def _kv_get(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        at = self._place()

        def judge(answer: str | None) -> None:
            entry = json.loads(answer) if answer else None
            assert (entry and entry["value"]) == tenant.rows.get(at), (at, answer)
            assert (entry is None) == (at not in tenant.rows)

        return list(at), judge

    def _kv_has(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        at = self._place()
        return list(at), lambda answer: _equal(answer, "true" if at in tenant.rows else "false")

    def _kv_mget(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        namespace, keys = self.random.choice(NAMESPACES), self.random.sample(NAMES, 4)

        def judge(answer: str) -> None:
            found = {entry["key"]: entry["value"] for entry in json.loads(answer)}
            _equal(found, {key: tenant.rows[namespace, key] for key in keys if (namespace, key) in tenant.rows})

        return [namespace, _array(keys)], judge

    def _kv_list(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        namespace, key = self._place()
        prefix = self.random.choice(("", key[:1]))
        cursor = self.random.choice((None, self.random.choice(NAMES)))

        def judge(answer: str) -> None:
            keys = sorted((k for n, k in tenant.rows if n == namespace and k.startswith(prefix) and k > (cursor or "")))
            _equal([(e["key"], e["value"]) for e in json.loads(answer)["entries"]],
                   [(k, tenant.rows[namespace, k]) for k in keys])  # fmt: skip

        return [namespace, prefix, cursor, "true"], judge

    def _kv_list_namespaces(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        return [], lambda answer: _equal(json.loads(answer), sorted({n for n, _ in tenant.rows}))

    def _kv_stats(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        return [], lambda answer: _equal(json.loads(answer)["keys"], len(tenant.rows))

    def _kv_watch(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        def judge(answer: str) -> None:
            changes = json.loads(answer)["changes"]
            _equal({(c["namespace"], c["key"]): c["value"] for c in changes}, tenant.rows)

        return [None, ""], judge

    def _value(self, tenant: Tenant) -> Any:
        text = self.random.choice(NAMES)
        return self.random.choice(
            ({"m": tenant.mark, text: text}, [tenant.mark], tenant.mark + text, self.random.randrange(9))
        )

    def _kv_set(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        at, value, absent = self._place(), self._value(tenant), self.random.random() < 0.3

        def judge(answer: str) -> None:
            refused = absent and at in tenant.rows
            _equal(json.loads(answer)["version"] is None, refused)
            if not refused:
                tenant.rows[at] = value

        return [*at, json.dumps(value), "true" if absent else "false"], judge

    def _kv_mset(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        namespace = self.random.choice(NAMESPACES)
        entries = {key: self._value(tenant) for key in self.random.sample(NAMES, 3)}

        def judge(answer: str) -> None:
            _equal(answer, "3")
            tenant.rows.update({(namespace, key): value for key, value in entries.items()})

        return [namespace, json.dumps(entries)], judge

    def _kv_delete(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        namespace, keys = self.random.choice(NAMESPACES), self.random.sample(NAMES, 2)
        return [namespace, _array(keys)], lambda answer: _equal(
            int(answer), sum(tenant.rows.pop((namespace, key), _NONE) is not _NONE for key in keys)
        )

    def _kv_clear(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        namespace = self.random.choice(NAMESPACES)

        def judge(answer: str) -> None:
            gone = [at for at in tenant.rows if at[0] == namespace]
            _equal(int(answer), len(gone))
            for at in gone:
                del tenant.rows[at]

        return [namespace], judge

    def _kv_increment(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        """In a namespace of numbers, so that it always may."""
        at, delta = ("numbers", self.random.choice(NAMES)), self.random.randrange(1, 9)

        def judge(answer: str) -> None:
            tenant.rows[at] = tenant.rows.get(at, 0) + delta
            _equal(json.loads(answer)["value"], tenant.rows[at])

        return [*at, str(delta)], judge

    def _kv_append(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        at, value = ("lists", self.random.choice(NAMES[:6])), {"m": tenant.mark}

        def judge(answer: str) -> None:
            tenant.rows[at] = [*tenant.rows.get(at, []), value]
            _equal(json.loads(answer)["length"], len(tenant.rows[at]))

        return [*at, json.dumps(value)], judge

    def _kv_transaction(self, tenant: Tenant) -> tuple[list[Any], Callable[[Any], None]]:
        at, value = self._place(), self._value(tenant)
        operations = [
            {"op": "set", "namespace": at[0], "key": at[1], "value": value, "worklet_id": self.tenants[0].id},
            {"op": "get", "namespace": at[0], "key": at[1]},
        ]
        if fails := self.random.random() < 0.3:
            operations.append({"op": "check", "namespace": at[0], "key": at[1], "version": 1})

        def judge(answer: str) -> None:
            outcome = json.loads(answer)
            _equal(outcome["committed"], not fails)
            if not fails:
                _equal(outcome["results"][1]["value"], value)
                tenant.rows[at] = value

        return [json.dumps(operations)], judge

    # The table itself, as PostgREST reads and writes it.

    def _visible(self, role: str, tenant: Tenant) -> list[Tenant]:
        return [tenant] if role == "worklet" else [t for t in self.tenants if t.owner == tenant.owner]

    def table(self) -> Operation:
        tenant = self.random.choice(self.tenants)
        role = self.random.choice(("worklet", "authenticated"))
        claims = worklet_claims(tenant.id) if role == "worklet" else person_claims(tenant.owner)
        seen = self._visible(role, tenant)
        (namespace, key), value = self._place(), self._value(tenant)
        marks = tuple(t.mark for t in seen)
        make = self.random.choice((self._read, self._embed, self._update, self._remove, self._upsert))
        sql, arguments, judge = make(seen, tenant, namespace, key, value)
        return Operation(role, json.dumps(claims), sql, arguments, judge, (), marks)

    def _read(self, seen: list[Tenant], *_: Any) -> tuple[str, list[str | None], Callable[[Any], None]]:
        namespace, key = self._place()
        sql = (
            "with pgrst_source as (select s.worklet_id, s.value from public.worklet_kv_store s"
            " where s.key = $1[1] or s.namespace = $1[2])"
            " select coalesce(json_agg(t), '[]')::text from (select * from pgrst_source) t"
        )

        def judge(answer: str) -> None:
            expected = [(t.id, v) for t in seen for (n, k), v in t.rows.items() if k == key or n == namespace]
            _equal(_sorted((r["worklet_id"], r["value"]) for r in json.loads(answer)), _sorted(expected))

        return sql, [key, namespace], judge

    def _embed(self, seen: list[Tenant], *_: Any) -> tuple[str, list[str | None], Callable[[Any], None]]:
        _, key = self._place()
        sql = (
            "select coalesce(json_agg(t), '[]')::text from (select s.key, row_to_json(w.*) as worklets"
            " from public.worklet_kv_store s left join lateral (select x.id, x.name from public.worklets x"
            " where x.id = s.worklet_id) w on true where s.key >= $1[1]) t"
        )

        def judge(answer: str) -> None:
            expected = [(k, t.id) for t in seen for (_, k) in t.rows if k.encode() >= key.encode()]
            _equal(_sorted((r["key"], (r["worklets"] or {}).get("id")) for r in json.loads(answer)), _sorted(expected))

        return sql, [key], judge

    def _update(self, seen: list[Tenant], _: Tenant, namespace: str, key: str, value: Any) -> Any:
        """A filter of its own only on namespace and key: whose rows is the policies' matter."""
        value = self.random.randrange(9)
        sql = (
            "with x as (update public.worklet_kv_store set value = $1[3]::jsonb"
            " where namespace = $1[1] and key = $1[2] returning 1) select count(*)::text from x"
        )

        def judge(answer: str) -> None:
            hit = [t for t in seen if (namespace, key) in t.rows]
            _equal(answer, str(len(hit)))
            for t in hit:
                t.rows[namespace, key] = value

        return sql, [namespace, key, json.dumps(value)], judge

    def _remove(self, seen: list[Tenant], _: Tenant, namespace: str, key: str, __: Any) -> Any:
        sql = (
            "with x as (delete from public.worklet_kv_store where namespace = $1[1] and key = $1[2] returning 1)"
            " select count(*)::text from x"
        )
        return (
            sql,
            [namespace, key],
            lambda answer: _equal(int(answer), sum(t.rows.pop((namespace, key), _NONE) is not _NONE for t in seen)),
        )

    def _upsert(self, _: list[Tenant], tenant: Tenant, namespace: str, key: str, value: Any) -> Any:
        def judge(answer: str) -> None:
            _equal(answer, "1")
            tenant.rows[namespace, key] = value

        return _UPSERT, [tenant.id, namespace, key, json.dumps(value)], judge

    def table_across(self) -> Operation:
        tenant = self.random.choice(self.tenants)
        other = self.random.choice([t for t in self.tenants if t.owner != tenant.owner])
        role = self.random.choice(("worklet", "authenticated"))
        claims = worklet_claims(tenant.id) if role == "worklet" else person_claims(tenant.owner)
        marks = tuple(t.mark for t in self._visible(role, tenant))
        sql, refused = self.random.choice((
            (_UPSERT, ("42501",)),
            ("insert into public.worklet_kv_store (worklet_id, namespace, key, value)"
             " values ($1[1]::uuid, $1[2], $1[3], $1[4]::jsonb) on conflict do nothing", ("42501",)),
            ("truncate public.worklet_kv_store cascade", ("42501",)),
            ("update public.worklet_kv_store set version = 1", ("42501",)),
            ("select json_agg(u)::text from (select user_id from auth.users) u", ("42501", "42P01")),
            ("delete from private.kv_usage", ("42501",)),
            ("select set_config('request.jwt.claims', '{}', true) from public.kv_admin_worklets()", ("42501",)),
            ("select public.kv_admin_remove($1[1]::uuid)", ("42501",)),
            *((f"with x as ({statement}) select count(*)::text from x", ()) for statement in (
                "select 1 from public.worklet_kv_store where worklet_id = $1[1]::uuid",
                "select 1 from public.worklets where id = $1[1]::uuid",
                "select 1 from private.kv_usage where worklet_id = $1[1]::uuid",
                "select 1 from private.kv_tombstones where worklet_id = $1[1]::uuid",
                "update public.worklet_kv_store set value = '0' where worklet_id = $1[1]::uuid returning 1",
                "delete from public.worklet_kv_store where worklet_id = $1[1]::uuid"
                " or value::text like '%' || $1[1] || '%' returning 1",
            )),
        ))  # fmt: skip
        arguments: list[str | None] = [other.id, *self._place(), json.dumps(tenant.mark)]
        return Operation(role, json.dumps(claims), sql, arguments, lambda a: _equal(a, "0"), refused, marks)


_NONE = object()
_UPSERT = (
    "with x as (insert into public.worklet_kv_store as s (worklet_id, namespace, key, value)"
    " values ($1[1]::uuid, $1[2], $1[3], $1[4]::jsonb) on conflict (worklet_id, namespace, key) do update"
    " set worklet_id = excluded.worklet_id, namespace = excluded.namespace, key = excluded.key, value = excluded.value"
    " returning 1) select count(*)::text from x"
)


def _sorted(rows: Any) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def _equal(found: Any, expected: Any) -> None:
    assert found == expected, f"{found!r} instead of {expected!r}"

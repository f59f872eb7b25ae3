/** Compiled, never run: a line below an @ts-expect-error must be refused, and every other line taken. */

import { KVConflictError, KVError, createWorkletKVStore } from "@flow/kvstore";
import type { Change, Entry, EntryInfo, JsonValue, Page, Stats, WorkletKVStore } from "@flow/kvstore";

interface User {
  name: string;
  visits: number;
}

type Same<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false;
const is = <A, B>(_: Same<A, B>): void => undefined;

const store: WorkletKVStore = createWorkletKVStore();
createWorkletKVStore("id", { url: "http://127.0.0.1", token: async () => "token", timeout: 5, namespace: "n" });
createWorkletKVStore(null, { tokenFile: "/run/token" });
// @ts-expect-error -- a token is text
createWorkletKVStore("id", { token: 5 });
// @ts-expect-error -- there is no such option
createWorkletKVStore("id", { uri: "http://127.0.0.1" });

export async function values(): Promise<void> {
  const any = await store.get("k");
  is<typeof any, JsonValue>(true); // null is one
  const user = await store.get<User>("k");
  is<typeof user, User | null>(true);
  const known = await store.get<User>("k", { default: { name: "", visits: 0 } });
  is<typeof known, User>(true);
  const other = await store.get<User, undefined>("k", { default: undefined });
  is<typeof other, User | undefined>(true);
  // @ts-expect-error -- it may be null
  user.name;
  const entry = await store.entry<User>("k");
  is<typeof entry, Entry<User> | null>(true);
  const several = await store.mget<User>(["a"]);
  is<typeof several, Record<string, User | null>>(true);
  // @ts-expect-error -- keys are strings
  await store.get(5);
  // @ts-expect-error -- options are an object
  await store.get("k", "namespace");
}

export async function changes(): Promise<void> {
  const version = await store.set<User>("k", { name: "Ada", visits: 1 }, { ttl: 5, namespace: "n" });
  is<typeof version, number | null>(true);
  await store.set("k", { name: "an interface's object needs no index signature" } as { name: string });
  // @ts-expect-error -- not a User
  await store.set<User>("k", { name: "Ada" });
  // @ts-expect-error -- a ttl is a number of seconds
  await store.set("k", 1, { ttl: "5s" });
  // @ts-expect-error -- not an option of delete
  await store.delete("k", { ttl: 5 });
  is<Awaited<ReturnType<typeof store.increment>>, number>(true);
  // @ts-expect-error -- a delta is a number
  await store.increment("k", "1");
  await store.mset(new Map([["a", 1]]));
  await store.mset({ a: 1, b: "two" });
  const stats: Stats = await store.getStats();
  is<typeof stats.changedAt, Date | null>(true);
  // @ts-expect-error -- it cannot be changed
  stats.keys = 5;
}

export async function pages(): Promise<void> {
  const page = await store.list("p", { limit: 5 });
  is<typeof page, Page<EntryInfo>>(true);
  // @ts-expect-error -- no values were asked for
  page.entries[0]?.value;
  const full = await store.list<User>("p", { values: true });
  is<typeof full, Page<Entry<User>>>(true);
  for await (const entry of store.scan<User>("p", { values: true })) is<typeof entry, Entry<User>>(true);
  for await (const entry of store.scan()) is<typeof entry, EntryInfo>(true);
}

export async function namespaces(): Promise<void> {
  const users = store.namespace<User>("users");
  is<Awaited<ReturnType<typeof users.entry>>, Entry<User> | null>(true);
  const user = await users.get("k");
  is<typeof user, User | null>(true);
  await users.set("k", { name: "Ada", visits: 0 });
  // @ts-expect-error -- not a User
  await users.set("k", 5);
  for await (const [key, value] of users) {
    is<typeof key, string>(true);
    is<typeof value, User>(true);
  }
}

export async function transactions(): Promise<void> {
  const results = await store.transaction().check("a", null).set("a", 1).get<User>("u").delete("b").commit();
  is<typeof results, [null, { version: number }, Entry<User> | null, { deleted: boolean }]>(true);
  const version: number = results[1].version;
  const user: User | undefined = results[2]?.value;
  const deleted: boolean = results[3].deleted;
  // @ts-expect-error -- there were four steps
  results[4];
  console.log(version, user, deleted);
}

export async function watching(): Promise<void> {
  for await (const change of store.watch<User>("p", { signal: new AbortController().signal, cursor: "0" })) {
    is<typeof change, Change<User>>(true);
    if (change.deleted) is<typeof change.value, null>(true);
    else is<typeof change.value, User>(true);
  }
}

export function errors(error: unknown): void {
  if (error instanceof KVConflictError) is<typeof error.failed, number>(true);
  if (error instanceof KVError) is<typeof error.hint, string | null>(true);
}

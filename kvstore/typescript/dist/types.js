/** What the store's methods take and give back. */
/** What has another shape than the store's answers throws TypeError, here and below. */
export function entryOf(told) {
    const entry = told;
    if (entry.value === undefined)
        throw new TypeError("an entry without a value");
    return { ...infoOf(entry), value: entry.value };
}
export function pageOf(told, values) {
    const { entries, cursor } = told;
    if (cursor !== null)
        is(cursor, "string");
    return values ? { entries: entries.map((one) => entryOf(one)), cursor } : { entries: entries.map(infoOf), cursor };
}
export function statsOf(told) {
    const { keys, bytes, namespaces, max_keys, max_bytes, changed_at } = told;
    return {
        keys: is(keys, "number"),
        bytes: is(bytes, "number"),
        namespaces: is(namespaces, "number"),
        maxKeys: max_keys ?? null,
        maxBytes: max_bytes ?? null,
        changedAt: changed_at == null ? null : timeOf(changed_at),
    };
}
export function timeOf(told) {
    const time = new Date(is(told, "string"));
    if (Number.isNaN(time.getTime()))
        throw new TypeError("no time");
    return time;
}
export function is(told, type) {
    if (typeof told !== type)
        throw new TypeError(`no ${type}`);
    return told;
}
function infoOf(told) {
    return {
        key: is(told.key, "string"),
        version: is(told.version, "number"),
        createdAt: timeOf(told.created_at),
        updatedAt: timeOf(told.updated_at),
        expiresAt: told.expires_at == null ? null : timeOf(told.expires_at),
    };
}

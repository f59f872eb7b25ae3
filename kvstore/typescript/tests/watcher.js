/** Watches the prefix "k" from what is there, one change a line on standard output. FLOW_KV_… say where. */

import { createWorkletKVStore } from "../dist/index.js";

for await (const { key, value, deleted, reset } of createWorkletKVStore().watch("k", { cursor: "0" })) {
  console.log(JSON.stringify({ key, value, deleted, reset }));
}

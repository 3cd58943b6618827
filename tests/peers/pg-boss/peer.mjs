// pg-boss (Node): one process works off no-op jobs. What goes in and out: ../README.md.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { PgBoss } from "pg-boss";

const connectionString = process.env.BENCH_DATABASE_URL;
const jobs = Number(process.env.BENCH_JOBS);
const payloadBytes = Number(process.env.BENCH_PAYLOAD_BYTES);

// Its documentation on workers: batches, several workers of a queue in one process, and fetching again at once while
// batches come full. Batches of 500 to 2000 cost the same per job, within what two runs differ by; 2 workers or 8 are no better.
const setting = { batch: 1000, workers: 4, pool: 10, ...JSON.parse(process.env.BENCH_SETTING || "{}") };

const STALLED_MS = 60_000;
const INSERTED_AT_ONCE = 5_000;
const QUEUE = "noop";

const boss = new PgBoss({ connectionString, max: setting.pool, supervise: false, schedule: false });
boss.on("error", (error) => console.error(error));
const ran = new Uint8Array(jobs);
let calls = 0;

async function noop(batch) {
  for (const { data } of batch) {
    ran[data.n] = Math.min(ran[data.n] + 1, 2);
    calls += data.text.length >= 0 ? 1 : 0;
  }
}

async function insert() {
  await boss.start();
  await boss.createQueue(QUEUE);
  const text = "x".repeat(Math.max(0, payloadBytes - 20));
  for (let from = 0; from < jobs; from += INSERTED_AT_ONCE) {
    const some = Math.min(INSERTED_AT_ONCE, jobs - from);
    await boss.insert(
      QUEUE,
      Array.from({ length: some }, (_, i) => ({ data: { n: from + i, text } })),
    );
  }
}

async function left() {
  const { rows } = await boss.getDb().executeSql("select count(*)::int as left from pgboss.job where name = $1 and state <> 'completed'", [QUEUE]);
  return rows[0].left;
}

// Asks the store only when all jobs have run, so that it does not disturb them.
async function finished() {
  let [seen, since] = [calls, performance.now()];
  for (;;) {
    if (calls >= jobs && (await left()) === 0) return;
    if (calls !== seen) [seen, since] = [calls, performance.now()];
    if (performance.now() - since > STALLED_MS) return;
    await sleep(5);
  }
}

await insert();
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
console.log(JSON.stringify({ ready: true }));
if ((await lines.next()).done) process.exit(1);

const started = performance.now();
await boss.work(
  QUEUE,
  { batchSize: setting.batch, localConcurrency: setting.workers, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 },
  noop,
);
await finished();
const seconds = (performance.now() - started) / 1000;

const { version } = JSON.parse(readFileSync(new URL("node_modules/pg-boss/package.json", import.meta.url)));
console.log(
  JSON.stringify({
    jobs,
    seconds,
    ran_once: ran.filter((times) => times === 1).length,
    ran_twice_or_more: ran.filter((times) => times > 1).length,
    never_ran: ran.filter((times) => times === 0).length,
    left_in_store: await left(),
    keeps_outcome: true,
    version: `${version} (node ${process.versions.node})`,
    setting: `batches of ${setting.batch}, ${setting.workers} workers in one process`,
  }),
);
await boss.stop({ graceful: false });
process.exit(0);

// Graphile Worker (Node): one process works off no-op jobs. What goes in and out: ../README.md.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";

const connectionString = process.env.BENCH_DATABASE_URL;
const jobs = Number(process.env.BENCH_JOBS);
const payloadBytes = Number(process.env.BENCH_PAYLOAD_BYTES);

// Its documentation on performance: a local queue (500 there), batched completion without a delay, 24 jobs at once. With 1000
// in the local queue the server needs a third less time per job than with 500; 2000, or 50 or 100 jobs at once, gain nothing.
const setting = {
  localQueue: 1000,
  concurrency: 24,
  completeDelay: 0,
  ...JSON.parse(process.env.BENCH_SETTING || "{}"),
};

const STALLED_MS = 60_000;
const INSERTED_AT_ONCE = 5_000;

const logger = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});
const pool = new pg.Pool({ connectionString, max: 2 });
const ran = new Uint8Array(jobs);
let calls = 0;

function noop(payload) {
  ran[payload.n] = Math.min(ran[payload.n] + 1, 2);
  calls += payload.text.length >= 0 ? 1 : 0;
}

async function insert() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  const text = "x".repeat(Math.max(0, payloadBytes - 20));
  for (let from = 0; from < jobs; from += INSERTED_AT_ONCE) {
    const some = Math.min(INSERTED_AT_ONCE, jobs - from);
    await utils.addJobs(
      Array.from({ length: some }, (_, i) => ({ identifier: "noop", payload: { n: from + i, text } })),
    );
  }
  await utils.release();
}

async function left() {
  const { rows } = await pool.query("select count(*)::int as left from graphile_worker._private_jobs");
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
const runner = await run({
  preset: {
    worker: {
      connectionString,
      concurrentJobs: setting.concurrency,
      maxPoolSize: setting.concurrency + 1,
      localQueue: setting.localQueue > 0 ? { size: setting.localQueue } : undefined,
      completeJobBatchDelay: setting.completeDelay,
      failJobBatchDelay: setting.completeDelay,
    },
  },
  logger,
  noHandleSignals: true,
  taskList: { noop },
  parsedCronItems: [],
});
await finished();
const seconds = (performance.now() - started) / 1000;
await runner.stop();

const { version } = JSON.parse(readFileSync(new URL("node_modules/graphile-worker/package.json", import.meta.url)));
console.log(
  JSON.stringify({
    jobs,
    seconds,
    ran_once: ran.filter((times) => times === 1).length,
    ran_twice_or_more: ran.filter((times) => times > 1).length,
    never_ran: ran.filter((times) => times === 0).length,
    left_in_store: await left(),
    keeps_outcome: false,
    version: `${version} (node ${process.versions.node})`,
    setting: `local queue ${setting.localQueue}, ${setting.concurrency} jobs at once, completion batched`,
  }),
);
await pool.end();
process.exit(0);

// Every session of the TypeScript SDK: `node all.mjs [part of a name]`, with UPSTASH_BOX_BASE_URL and UPSTASH_BOX_API_KEY set.

import "./sessions/boxes.mjs";
import "./sessions/life.mjs";
import "./sessions/labels.mjs";
import "./sessions/exec.mjs";
import "./sessions/code.mjs";
import "./sessions/streams.mjs";
import "./sessions/files.mjs";
import "./sessions/git.mjs";
import "./sessions/runs.mjs";
import "./sessions/logs.mjs";
import "./sessions/snapshots.mjs";
import "./sessions/errors.mjs";
import { main } from "./session.mjs";

await main();

import assert from "node:assert/strict";

import { makeBox, refused, session } from "../session.mjs";

let shared;
const box = async () => (shared ??= await makeBox());

session("JavaScript runs as CommonJS in the current folder", async () => {
  const here = await makeBox();
  await here.exec.command("mkdir sub && echo 1 > sub/file.txt");
  await here.cd("sub");
  const run = await here.exec.code({
    code: 'console.log(require("fs").readdirSync("."), process.cwd())',
    lang: "js",
  });
  assert.equal(run.result, "[ 'file.txt' ] /workspace/home/sub\n", run.stderr);
});

session("TypeScript runs as it is", async () => {
  const code = 'type Greeting = { text: string };\nconst g: Greeting = { text: "typed" };\nconsole.log(g.text as string);';
  const run = await (await box()).exec.code({ code, lang: "ts" });
  assert.equal(run.result, "typed\n", run.stderr);
});

session("Python runs", async () => {
  const run = await (await box()).exec.code({ code: "import sys\nprint(sum(range(10)))\nprint('e', file=sys.stderr)", lang: "python" });
  assert.deepEqual([run.exitCode, run.stdout, run.stderr], [0, "45\n", "e\n"]);
});

session("an uncaught error fails the run and leaves its trace on standard error", async () => {
  const here = await box();
  for (const [lang, code] of [["js", 'throw new Error("went wrong")'], ["ts", 'throw new Error("went wrong")'], ["python", 'raise ValueError("went wrong")']]) {
    const run = await here.exec.code({ code, lang });
    assert.equal(run.exitCode, 1, lang);
    assert.match(run.stderr, /went wrong/);
  }
});

session("code longer than its timeout ends with 124 and says why", async () => {
  const here = await box();
  for (const [lang, code] of [["js", 'console.log("began"); while (true);'], ["python", 'print("began", flush=True)\nwhile True: pass']]) {
    const run = await here.exec.code({ code, lang, timeout: 2000 });
    assert.equal(run.exitCode, 124, lang);
    assert.match(run.stderr, /time/i);
    assert.equal(run.stdout, "began\n");
  }
});

session("code within its timeout is not disturbed by it", async () => {
  const run = await (await box()).exec.code({ code: "console.log(1)", lang: "js", timeout: 60_000 });
  assert.deepEqual([run.exitCode, run.result], [0, "1\n"]);
});

session("an unknown language is refused with 400", async () => {
  const here = await box();
  const error = await refused(() => here.exec.code({ code: "1", lang: "cobol" }));
  assert.equal(error.statusCode, 400);
});
